"""Check that the tokenizer finds a token in every text: an encoder has no output for a text without any."""

from collections.abc import Sequence

from nas.common.boundary import shown
from nas.common.errors import DataError
from nas.data.preprocessing import Preprocessor
from nas.data.samples import Dataset

_BATCH = 1024


def check_texts(dataset: Dataset, preprocessor: Preprocessor) -> None:
    """Check that no text is without tokens; an empty one has some where the tokenizer adds special tokens.

    Args:
        dataset: The data set.
        preprocessor: The tokenizer.

    Raises:
        DataError: If one is; names the first, and the tokenizer.
    """
    if preprocessor.adds_tokens:
        return
    for split, samples in dataset.splits.items():
        for start in range(0, len(samples), _BATCH):
            empty = preprocessor.first_empty(preprocessor.token_ids(samples.texts[start : start + _BATCH]))
            if empty is not None:
                index = start + empty
                raise DataError(
                    f"{split} split, sample {index + 1} (image {shown(samples.images[index])}): "
                    f"{preprocessor.empty_text(samples.texts[index])}"
                )


def check_given_texts(texts: Sequence[object], preprocessor: Preprocessor) -> None:
    """Check that a model can read the texts that a caller gives.

    Args:
        texts: The texts, in their list.
        preprocessor: The preprocessor with the tokenizer.

    Raises:
        DataError: If one is no text, or has no token.
    """
    words = [text for text in texts if isinstance(text, str)]
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"texts[{index}]: not allowed; expected text, got {shown(text)}")
    empty = None if preprocessor.adds_tokens else preprocessor.first_empty(preprocessor.token_ids(words))
    if empty is not None:
        raise DataError(f"texts[{empty}]: {preprocessor.empty_text(words[empty])}")
