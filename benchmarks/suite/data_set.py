"""Write a data set: a manifest and a ZIP archive of pictures, the same bytes for the same samples."""

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nas.common.errors import DataError
from nas.common.files import replace_atomically

SPLITS = ("train", "validation", "test")
SEPARATOR = "|"
"""Separates the labels of a sample with several."""
MANIFEST, IMAGES = "manifest.csv", "images.zip"
COLUMNS = ("image", "text", "label", "split")


@dataclass(frozen=True)
class Sample:
    """A row of the manifest.

    Args:
        image: The path of the picture in the archive.
        text: The text.
        labels: The labels: one, or any number if the task has several.
        split: train, validation or test.
    """

    image: str
    text: str
    labels: tuple[str, ...]
    split: str

    @property
    def row(self) -> tuple[str, str, str, str]:
        """The values in the order of `COLUMNS`."""
        return self.image, self.text, SEPARATOR.join(self.labels), self.split


@dataclass(frozen=True)
class DataSet:
    """The files of a data set."""

    manifest: Path
    images: Path

    def read(self) -> list[Sample]:
        """Return the samples in the order of the manifest."""
        with self.manifest.open(newline="", encoding="utf-8") as file:
            return [
                Sample(row["image"], row["text"], tuple(filter(None, row["label"].split(SEPARATOR))), row["split"])
                for row in csv.DictReader(file)
            ]

    def pictures(self, names: Iterable[str]) -> Iterator[Image.Image]:
        """Yield pictures of the archive, as RGB."""
        with zipfile.ZipFile(self.images) as archive:
            for name in names:
                with Image.open(io.BytesIO(archive.read(name))) as picture:
                    yield picture.convert("RGB")


def write_data_set(directory: Path, samples: Iterable[Sample], pictures: Mapping[str, bytes]) -> DataSet:
    """Write the manifest and the pictures that it names into a folder.

    Entries of the archive have fixed dates, and are not compressed, because pictures are.

    Args:
        directory: The folder, which is made if necessary.
        samples: The rows of the manifest.
        pictures: The encoded pictures by path.

    Raises:
        DataError: If a picture is in two splits.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rows = list(samples)
    _check_splits(rows, pictures)
    written = DataSet(directory / MANIFEST, directory / IMAGES)
    with replace_atomically(written.images) as path, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in dict.fromkeys(sample.image for sample in rows):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, pictures[name])
    with replace_atomically(written.manifest) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sample.row for sample in rows)
    return written


def _check_splits(samples: Iterable[Sample], pictures: Mapping[str, bytes]) -> None:
    """Raise an error if samples of two splits have the same picture, under one name or two."""
    first: dict[bytes, Sample] = {}
    for sample in samples:
        known = first.setdefault(pictures[sample.image], sample)
        if known.split != sample.split:
            raise DataError(
                f"{sample.image}: the same picture as {known.image} in {known.split}; expected it in one split, got "
                f"{sample.split} as well"
            )


def closest_across_splits(data: DataSet) -> float:
    """Return the smallest difference between pictures of two splits: root mean square at 16x16 pixels, 0 to 255."""
    split_of = {sample.image: sample.split for sample in data.read()}
    names = np.array(list(split_of.values()))
    shrunk = [picture.resize((16, 16), Image.Resampling.BOX) for picture in data.pictures(split_of)]
    pixels = np.stack([np.asarray(picture, dtype=np.float32).ravel() for picture in shrunk])
    norms = (pixels**2).sum(axis=1)
    closest = np.inf
    for name in SPLITS:
        inside = names == name
        if inside.any() and not inside.all():
            squares = norms[inside][:, None] + norms[~inside] - 2 * pixels[inside] @ pixels[~inside].T
            closest = min(closest, float(squares.min()))
    return float(np.sqrt(max(closest, 0.0) / pixels.shape[1]))


def squared(picture: Image.Image, size: int) -> Image.Image:
    """Return the centre of a picture as a square of a size, in RGB."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.convert("RGB").crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.LANCZOS)


def encoded_photograph(picture: Image.Image) -> bytes:
    """Return a picture as WebP of high quality."""
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=95, method=4)
    return file.getvalue()


def required(path: Path, what: str) -> Path:
    """Return a path of a source.

    Raises:
        DataError: If there is nothing.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected {what}")
    return path
