"""Hugging Face's image folder: pictures beside a `metadata.csv` (or .jsonl, .parquet) that names them by `file_name`.

One such file for each split, in a folder named after it, or one for all, with or without a column of splits.
"""

import posixpath
from dataclasses import replace
from pathlib import Path

from nas.common.errors import DataError
from nas.config.schema import DataConfig
from nas.data.dataset import SPLIT_NAMES, SPLITS, Found, Sample
from nas.data.images import ImageSource, open_images
from nas.data.readers.base import Reader
from nas.data.readers.manifest import rows_of, sample_of, split_of

FILE_NAME = "file_name"
_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


class ImageFolderReader(Reader):
    """Reads every row of every metadata file."""

    def find_samples(self) -> Found:
        return _find(self.folder, self.config)

    def open_images(self) -> ImageSource:
        return open_images(self.folder)


def _find(root: Path, config: DataConfig) -> Found:
    files = _metadata(root)
    splits: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for split, path in files:
        column = None if split else config.columns.split
        columns = replace(config.columns, image=FILE_NAME, split=column)
        read = replace(config, columns=columns)
        for number, row in rows_of(path, columns):
            where = f"{path.relative_to(root)}, row {number}"
            sample = sample_of(row, read, path, number)
            if Path(sample.image).is_absolute():
                raise DataError(f"{root / where}: {FILE_NAME} is {sample.image!r}; expected a path from its own folder")
            inside = posixpath.join(path.parent.relative_to(root).as_posix(), sample.image)
            sample = sample._replace(image=posixpath.normpath(inside))
            splits[split or split_of(row, columns, where)].append(sample._replace(place=where))
    return Found(str(root), splits, has_several_labels=config.labels == "several")


def _metadata(root: Path) -> list[tuple[str | None, Path]]:
    """Metadata files with the split that their folder names, if it does."""
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir())
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror}") from error
    found: list[tuple[str | None, Path]] = []
    for split, folder in [(None, root), *((SPLIT_NAMES.get(path.name.lower()), path) for path in folders)]:
        there = [folder / name for name in _FILES if (folder / name).is_file()]
        if there and split is None and folder != root:
            raise DataError(
                f"{there[0]}: its folder is named {folder.name!r}; expected the name of a split, one of "
                f"{', '.join(SPLITS)}"
            )
        if len(there) > 1:
            raise DataError(f"{folder}: has {' and '.join(path.name for path in there)}; expected one of them")
        found += [(split, path) for path in there]
    if not found:
        raise DataError(f"{root}: there is no {', '.join(_FILES[:-1])} or {_FILES[-1]}, here or in a folder of a split")
    return found
