"""Registry of data readers: where the class of each is found, and which keys of `data` it uses. Imports no torch."""

from dataclasses import dataclass

from nas.common.registry import Registry

LABEL_KEYS = ("columns", "labels", "label_separator")
"""Keys that describe columns and labels, for readers of data sets that do not fix them."""
FILE_NAME = "file_name"
"""The column of image paths in the metadata of image folders."""

TABLE_KEYS = ("delimiter", "quotes")
"""Keys that describe the values of CSV and TSV files."""


@dataclass(frozen=True)
class ReaderEntry:
    """Facts about a reader that are needed before its module is imported.

    Args:
        target: The subclass of `nas.data.readers.base.Reader`, as `package.module:Name`.
        keys: The keys of `data` that this reader uses and other readers may not: `manifest` and `images` or `folder`
            for the location, `LABEL_KEYS`, `texts`. A search file that sets one that its reader does not use is
            rejected.
        held_out_validation: Default of `held_out.validation`: a fraction of the training images below 1, or a number of
            images; positive for data sets that are distributed without a validation split.
        has_several_labels: Whether a sample of the data set may have several labels whatever `labels` is.
        image_column: The name that the format fixes for the column of image paths; None if `data.columns` names it.
    """

    target: str
    keys: tuple[str, ...]
    held_out_validation: float = 0.0
    has_several_labels: bool = False
    image_column: str | None = None

    @property
    def uses_manifest(self) -> bool:
        """Whether the data set is located by `manifest` and `images` instead of `folder`."""
        return "manifest" in self.keys

    @property
    def has_label_keys(self) -> bool:
        """Whether the search file describes columns and labels."""
        return "columns" in self.keys


READERS: Registry[ReaderEntry] = Registry(
    "data reader", builtins="nas.data.register:register", entry_points="pmf_nas.readers"
)


def register_reader(
    name: str,
    target: str,
    *,
    keys: tuple[str, ...] = ("folder", *LABEL_KEYS),
    held_out_validation: float = 0.0,
    has_several_labels: bool = False,
    image_column: str | None = None,
) -> None:
    """Add a data reader; see `ReaderEntry` for the facts.

    Args:
        name: The value of `data.reader` in search files.
        target: The subclass of `nas.data.readers.base.Reader`, as `package.module:Name`.
        keys: The reader-specific keys of `data` that it uses.
        held_out_validation: Default of `held_out.validation`.
        has_several_labels: Whether a sample may have several labels whatever `labels` is.
        image_column: The name that the format fixes for the column of image paths.

    Raises:
        ExtensionError: If the name is taken.
    """
    READERS.register(name, ReaderEntry(target, keys, held_out_validation, has_several_labels, image_column))
