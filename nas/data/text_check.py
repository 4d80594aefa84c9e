"""Check that the tokenizer finds a token in every text: an encoder has no output for a text without any."""

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
