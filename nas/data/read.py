"""Data sets, in whatever form they are distributed."""

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nas.config.schema import DataConfig
from nas.data.dataset import Dataset, Found, assemble, check_characters, classes_of_train
from nas.data.duplicates import Copies, CopiesAmong, no_copies
from nas.data.images import ImageSource, open_images
from nas.data.readers.food101 import find_in_food101, images_of_food101
from nas.data.readers.hf_dataset import SavedImages, find_in_saved
from nas.data.readers.image_folder import find_in_image_folder, images_of_image_folder
from nas.data.readers.manifest import find_in_manifest
from nas.data.readers.mm_imdb import find_in_mm_imdb, images_of_mm_imdb
from nas.data.readers.snli_ve import find_in_snli_ve, images_of_snli_ve
from nas.data.splits import complete


@dataclass(frozen=True)
class Reader:
    """One form of data sets.

    Args:
        find: Finds all samples.
        images: Folder or ZIP that their image paths lead into.
    """

    find: Callable[[DataConfig], Found]
    images: Callable[[DataConfig], Path]


_READERS: Mapping[str, Reader] = {
    "manifest": Reader(find_in_manifest, lambda config: Path(config.images or "")),
    "image_folder": Reader(find_in_image_folder, images_of_image_folder),
    "food101": Reader(find_in_food101, images_of_food101),
    "mm_imdb": Reader(find_in_mm_imdb, images_of_mm_imdb),
    "snli_ve": Reader(find_in_snli_ve, images_of_snli_ve),
}


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
    find = find_in_saved if config.reader == "datasets" else _READERS[config.reader].find
    found = find(config)
    check_characters(found)
    copies_among: CopiesAmong = Copies(lambda: open_images_of(config)).among if compares_images else no_copies
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
    if config.reader == "datasets":
        return SavedImages(Path(config.folder or ""), config.columns.image)
    return open_images(_READERS[config.reader].images(config))
