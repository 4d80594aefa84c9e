"""Interface of data readers: find the samples of a data set and open its images."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from nas.common.registry import load_object
from nas.config.data_schema import DataConfig
from nas.config.reader_registry import READERS
from nas.data.images import ImageSource
from nas.data.inputs import Input, inputs_of
from nas.data.samples import RawDataset


class Reader(ABC):
    """Reads data sets of one format.

    Register a subclass with `nas.config.reader_registry.register_reader`, which also declares its keys of `data`.

    Args:
        config: The `data` section of the search file.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    @property
    def folder(self) -> Path:
        """The root folder of the data set."""
        return Path(self.config.folder or "")

    @abstractmethod
    def find_samples(self) -> RawDataset:
        """Return every sample of every split, without opening images.

        Raises:
            DataError: If a file is missing or malformed; names the file and the row.
        """

    def lacks_split_column(self) -> bool:
        """Return whether the search file names a column of splits that the data set does not have.

        Raises:
            DataError: If the data set cannot be read.
        """
        return False

    def has_split_folders(self) -> bool:
        """Return whether the data set has a folder or files for each split, so that no column names it.

        Raises:
            DataError: If the data set cannot be read.
        """
        return False

    def has_column(self, name: str) -> bool:
        """Return whether the data set is a table with a column of this name.

        Args:
            name: The name of the column.

        Raises:
            DataError: If the data set cannot be read.
        """
        del name
        return False

    def inputs(self, id_column: str | None) -> Iterator[Input]:
        """Yield every row of the data set in its order, without its label and split, which it need not have.

        The number of a row is that of its line as editors count, and as messages name it, where the data set is one
        table; else rows are numbered from 1. A row that cannot be used is yielded with its error.

        Args:
            id_column: The column of ids; None for none.

        Raises:
            DataError: If a file is missing, has no such columns, or cannot be read further.
        """
        del id_column  # only tables have columns
        return inputs_of(self.find_samples())

    @abstractmethod
    def open_images(self) -> ImageSource:
        """Return the source that the image paths of the samples refer to.

        Raises:
            DataError: If the folder or ZIP file of images does not exist.
        """


def load_reader(config: DataConfig) -> Reader:
    """Create the reader that a search file names.

    Args:
        config: The `data` section; `reader` is a registered name.

    Raises:
        ExtensionError: If the class of the reader cannot be imported.
    """
    reader_class = cast("type[Reader]", load_object(READERS[config.reader].target))
    return reader_class(config)
