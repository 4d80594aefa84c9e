"""Hugging Face's image folder: images with a `metadata.csv` (or .jsonl, .parquet) that lists them by `file_name`.

Either each split has its own metadata file, in a folder named after the split, or one file lists all images, with or
without a split column.
"""

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from nas.common.boundary import reading
from nas.common.errors import DataError
from nas.config.data_schema import DataConfig
from nas.config.reader_registry import FILE_NAME
from nas.data.images import ImageSource, open_images
from nas.data.inputs import Input
from nas.data.readers.base import Reader
from nas.data.readers.rows import parse_sample, parse_split, row_inputs
from nas.data.readers.tables import has_column, input_columns, read_rows, table_rows
from nas.data.samples import SPLIT_NAMES, SPLITS, RawDataset, RawSample

_METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


class ImageFolderReader(Reader):
    """Reads every row of every metadata file."""

    def find_samples(self) -> RawDataset:
        root = self.folder
        splits: dict[str, list[RawSample]] = {split: [] for split in SPLITS}
        notes: list[str] = []
        for split, path in _find_metadata(root):
            for name, sample in _read_metadata(root, path, split, self.config, notes):
                splits[name].append(sample)
        return RawDataset(str(root), splits, has_several_labels=self.config.labels == "several", notes=notes)

    def lacks_split_column(self) -> bool:
        name = self.config.columns.split
        return name is not None and all(
            split is None and not has_column(path, name, self.config) for split, path in _find_metadata(self.folder)
        )

    def has_split_folders(self) -> bool:
        return all(split is not None for split, _ in _find_metadata(self.folder))

    def has_column(self, name: str) -> bool:
        return all(has_column(path, name, self.config) for _, path in _find_metadata(self.folder))

    def inputs(self, id_column: str | None) -> Iterator[Input]:
        files = _find_metadata(self.folder)
        found = (entry for _, path in files for entry in _metadata_inputs(self.folder, path, self.config, id_column))
        if len(files) == 1:
            return found
        return (entry._replace(number=number) for number, entry in enumerate(found, start=1))

    def open_images(self) -> ImageSource:
        return open_images(self.folder, self.config.max_pixels)


def _read_metadata(
    root: Path, path: Path, split: str | None, config: DataConfig, notes: list[str]
) -> list[tuple[str, RawSample]]:
    """Return the samples of a metadata file, each with its split."""
    columns = config.columns.replace(image=FILE_NAME, split=None if split else config.columns.split)
    row_config = config.replace(columns=columns)
    samples = []
    for number, row in read_rows(path, config, columns, notes):
        place = f"{path.relative_to(root)}, row {number}"
        sample = parse_sample(row, row_config, source=str(path), place=f"row {number}")
        if Path(sample.image).is_absolute():
            raise DataError(f"{root / place}: {_absolute(sample.image)}")
        image = _image_name(root, path, sample.image)
        samples.append(
            (split or parse_split(row, columns, str(root / place)), sample._replace(image=image, place=place))
        )
    return samples


def _metadata_inputs(root: Path, path: Path, config: DataConfig, id_column: str | None) -> Iterator[Input]:
    """Yield the rows of a metadata file."""
    columns = config.columns.replace(image=FILE_NAME, split=None)
    rows = table_rows(path, config, columns, input_columns(columns, id_column), [])
    for entry in row_inputs(rows, columns, id_column, str(path)):
        if entry.error:
            yield entry
        elif Path(entry.image).is_absolute():
            yield entry._replace(error=f"{path}, row {entry.number}: {_absolute(entry.image)}")
        else:
            yield entry._replace(image=_image_name(root, path, entry.image))


def _absolute(image: str) -> str:
    return (
        f"{FILE_NAME} is an absolute path; expected a path relative to the folder of the metadata file, got {image!r}"
    )


def _image_name(root: Path, path: Path, name: str) -> str:
    """Return the path of an image within the data set, given that within the folder of a metadata file."""
    return posixpath.normpath(posixpath.join(path.parent.relative_to(root).as_posix(), name))


def _find_metadata(root: Path) -> list[tuple[str | None, Path]]:
    """Return the metadata files, each with the split that its folder is named after, or None for the root folder."""
    with reading(root, expected="a folder with metadata", error=DataError, problem="the folder cannot be read"):
        folders = sorted(path for path in root.iterdir() if path.is_dir())
    found: list[tuple[str | None, Path]] = []
    for split, folder in [(None, root), *((SPLIT_NAMES.get(path.name.lower()), path) for path in folders)]:
        files = [folder / name for name in _METADATA_FILES if os.path.lexists(folder / name)]
        if files and split is None and folder != root:
            raise DataError(
                f"{files[0]}: the name of its folder is not a split; expected one of {', '.join(SPLITS)}, got "
                f"{folder.name!r}"
            )
        if len(files) > 1:
            raise DataError(
                f"{folder}: several metadata files; expected one, got {' and '.join(path.name for path in files)}"
            )
        found += [(split, path) for path in files]
    if not found:
        raise DataError(
            f"{root}: no metadata file; expected {', '.join(_METADATA_FILES[:-1])} or {_METADATA_FILES[-1]} in this "
            "folder or in a folder named after a split"
        )
    return found
