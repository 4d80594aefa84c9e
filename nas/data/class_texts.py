"""Tokenize the texts of the classes."""

from collections.abc import Sequence

from nas.common.boundary import shown
from nas.config.class_prompts import SLOT, class_text
from nas.data.preprocessing import Preprocessor
from nas.models.class_texts import ClassTexts


class LongClassText(ValueError):
    """The text of a class has more tokens than the text encoder reads."""


def tokenize_classes(
    prompts: Sequence[str], class_names: Sequence[str], preprocessor: Preprocessor, *, max_tokens: int
) -> ClassTexts:
    """Return the token ids of the texts of all classes.

    Args:
        prompts: The templates, each with one `{}`.
        class_names: The labels in the order of the logits; their underscores become spaces.
        preprocessor: The tokenizer of the text encoder, which starts a text with one token of its own.
        max_tokens: The number of tokens that the text encoder reads.

    Raises:
        LongClassText: If a text is longer; names it.
    """
    token_ids, prefixes = [], []
    for prompt in prompts:
        texts = [class_text(prompt, name) for name in class_names]
        found = preprocessor.whole_token_ids([*texts, prompt.partition(SLOT)[0].rstrip()])
        *ids, start = found
        for text, row in zip(texts, ids, strict=True):
            if len(row) > max_tokens:
                raise LongClassText(f"{len(row)} tokens in {shown(text)}")
        token_ids.append(ids)
        prefixes.append(min(max(_shared(row, start) - 1, 0) for row in ids))
    return ClassTexts.of(token_ids, prefixes)


def _shared(ids: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of tokens at the start that two texts share."""
    for index, (one, two) in enumerate(zip(ids, other, strict=False)):
        if one != two:
            return index
    return min(len(ids), len(other))
