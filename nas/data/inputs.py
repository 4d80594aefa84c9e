"""The inputs of a prediction: pictures with their texts, in the order of their source, whatever their labels."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from nas.data.samples import RawDataset

ID = "id"
"""The column whose values name the rows of a prediction, where a table has it."""


class Input(NamedTuple):
    """One row to predict.

    Args:
        number: The number of the row; see `Reader.inputs`.
        image: Path of the image within the image source of the data set.
        text: The text; may be empty.
        id: The value of the column of ids; empty if there is none.
        error: Why the row cannot be predicted; empty if it can.
    """

    number: int
    image: str
    text: str
    id: str = ""
    error: str = ""


def inputs_of(raw: RawDataset) -> Iterator[Input]:
    """Yield the samples of all splits, one split after the other, numbered from 1."""
    samples = itertools.chain.from_iterable(raw.splits.values())
    return (Input(number, sample.image, sample.text) for number, sample in enumerate(samples, start=1))
