"""Data sets, in whatever form they are distributed."""

import itertools
from collections.abc import Collection
from dataclasses import replace

from nas.config.schema import DataConfig
from nas.data.dataset import Dataset, assemble, check_characters, classes_of_train
from nas.data.duplicates import Copies, CopiesAmong, no_copies
from nas.data.images import ImageSource
from nas.data.readers.base import load_reader
from nas.data.splits import complete


def read_data(
    config: DataConfig,
    splits: Collection[str],
    class_names: tuple[str, ...] | None = None,
    *,
    compares_images: bool = True,
) -> Dataset:
    """Read a data set as a whole, check it, and keep the wanted splits.

    Args:
        config: Names its form, and where it lies.
        splits: Which of train, validation and test are wanted.
        class_names: The classes in order, where a model has fixed them; otherwise those of the data set.
        compares_images: Whether one sample under two paths is looked for as well, for which the images have to be
            there.

    Raises:
        DataError: If it cannot be read or used; names file and row.
    """
    reader = load_reader(config)
    found = reader.find_samples()
    check_characters(found)
    copies_among: CopiesAmong = Copies(reader.open_images).among if compares_images else no_copies
    whole = complete(found.source, found.splits, config.held_out, splits, copies_among)
    # Classes are those of train as it is distributed, whatever is held out of it.
    names = class_names or found.class_names or classes_of_train(found)
    found = replace(found, splits=whole)
    copies = copies_among(itertools.chain.from_iterable(whole.values()))
    return assemble(found, splits, names, allow_duplicates=config.allow_duplicates, copies=copies)


def open_images_of(config: DataConfig) -> ImageSource:
    """Where the images of a data set lie.

    Raises:
        DataError: If there are none.
    """
    return load_reader(config).open_images()
