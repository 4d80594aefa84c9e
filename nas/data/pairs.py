"""The items of image-text retrieval: equal pictures are one item, equal texts are one, and a row joins two of them."""

import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.common.errors import DataError

PairItems = NDArray[np.int64]
"""The picture and the text of every row, as numbers of items, (N, 2)."""


def normal_text(text: str) -> str:
    """Return the form in which equal texts are one item: compatible forms of Unicode, case and blanks do not count."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def pair_items(images: Sequence[str], texts: Sequence[str], copies: Mapping[str, str]) -> PairItems:
    """Return the items of rows, numbered in the order in which they occur first.

    Args:
        images: The picture of every row.
        texts: The text of every row.
        copies: Pictures that have the same content as an earlier one → that one.
    """
    numbers = _numbered(copies.get(image, image) for image in images), _numbered(map(normal_text, texts))
    return np.stack([np.fromiter(items, np.int64, len(images)) for items in numbers], axis=1)


def _numbered(values: Iterable[Hashable]) -> list[int]:
    known: dict[Hashable, int] = {}
    return [known.setdefault(value, len(known)) for value in values]


def compact(items: PairItems) -> PairItems:
    """Return items numbered from 0 without gaps, which a part of a data set has."""
    return np.stack([np.unique(column, return_inverse=True)[1] for column in items.T], axis=1)


def check_negatives(items: PairItems, where: str) -> None:
    """Check that every picture and every text has something that it can be told from.

    Args:
        items: The items of the rows of a split.
        where: The data set and the split, for messages.

    Raises:
        DataError: If there is one picture or one text only, or each picture goes with each text.
    """
    images, texts = (len(np.unique(column)) for column in items.T)
    if images < 2 or texts < 2 or len(np.unique(items, axis=0)) == images * texts:
        raise DataError(
            f"{where}: retrieval has nothing to tell apart; expected at least 2 different pictures and 2 different "
            f"texts, not all of which belong together, got {images} and {texts}"
        )
