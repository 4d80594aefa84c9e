"""UPMC Food-101 (Wang et al., ICME Workshops 2015), as it is distributed: dishes with text from their web pages.

    images/{train,test}/<class>/<name>.jpg
    texts/{train,test}_titles.csv          no header; image name, title, class
    texts_txt/<class>/<name>.txt           texts of the pages, an alternative to the titles

The data set has no validation split: `data.held_out.validation` takes one from train.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from nas.common.boundary import check_no_lfs_pointer, check_regular_file, read_bytes, reading, shown
from nas.common.errors import DataError
from nas.data.images import ImageSource, open_images
from nas.data.readers.base import Reader
from nas.data.readers.lines import Lines
from nas.data.samples import RawDataset, RawSample, shortened_list

_SPLITS = ("train", "test")
_SUFFIXES = (".jpg", ".jpeg", ".png")

Text = tuple[str, str]
"""A text and where it was found."""

Key = tuple[str, str]
"""Class and name, which an image and its text share."""


class Food101Reader(Reader):
    """Reads images that have a text; other images, and texts without an image, are counted and left out."""

    def find_samples(self) -> RawDataset:
        root = self.folder
        images = {split: {_key(path): path for path in _find_images(root / "images" / split)} for split in _SPLITS}
        texts: Mapping[str, Mapping[Key, Text | Path]]
        if self.config.texts == "pages":
            pages = _find_pages(root / "texts_txt")
            texts = dict.fromkeys(_SPLITS, pages)
            unmatched = sum(key not in images["train"] and key not in images["test"] for key in pages)
        else:
            classes = tuple(sorted({name for found in images.values() for name, _ in found}))
            texts = {split: _read_titles(root / "texts" / f"{split}_titles.csv", classes) for split in _SPLITS}
            unmatched = sum(key not in images[split] for split in _SPLITS for key in texts[split])
        splits = {split: _match(images[split], texts[split], root / "images") for split in _SPLITS}
        without_text = sum(len(images[split]) - len(splits[split]) for split in _SPLITS)
        left_out = {"images without text": without_text, "texts without image": unmatched}
        return RawDataset(
            str(root),
            splits,
            # The classes of train: a class that only test has is reported as an unknown label.
            class_names=tuple(sorted({name for name, _ in images["train"]})),
            left_out={reason: count for reason, count in left_out.items() if count},
        )

    def open_images(self) -> ImageSource:
        return open_images(self.folder / "images", self.config.max_pixels)


def _match(images: Mapping[Key, Path], texts: Mapping[Key, Text | Path], folder: Path) -> list[RawSample]:
    """Return the samples of a split: every image with the text of the same class and name."""
    return [
        RawSample(path.relative_to(folder).as_posix(), text, (key[0],), place)
        for key, path in sorted(images.items())
        if (entry := texts.get(key)) is not None
        for text, place in [_read_text(entry)]
        if text
    ]


def _key(path: Path) -> Key:
    return _composed(path.parent.name), _composed(path.stem)


def _composed(name: str) -> str:
    """Return a name in the composed form of Unicode (NFC), since macOS stores names in another."""
    return unicodedata.normalize("NFC", name)


def _class_folders(folder: Path) -> list[Path]:
    with reading(folder, expected="a folder for every class", error=DataError, problem="the folder cannot be read"):
        return sorted(path for path in folder.iterdir() if path.is_dir())


def _find_images(folder: Path) -> Iterator[Path]:
    for class_folder in _class_folders(folder):
        with reading(class_folder, expected="a folder of images", error=DataError, problem="the folder cannot be read"):
            paths = sorted(class_folder.iterdir())
        yield from (path for path in paths if path.suffix.lower() in _SUFFIXES)


def _find_pages(folder: Path) -> dict[Key, Path]:
    """Return the files of the page texts; some are named after the whole image file, including its suffix."""
    found = {}
    for class_folder in _class_folders(folder):
        for path in class_folder.glob("*.txt"):
            stem = Path(path.stem)
            name = stem.stem if stem.suffix.lower() in _SUFFIXES else path.stem
            found[_composed(class_folder.name), _composed(name)] = path
    return found


def _read_text(entry: Text | Path) -> Text:
    if not isinstance(entry, Path):
        return entry
    content = read_bytes(entry, expected="a text", error=DataError)
    return " ".join(content.decode("utf-8", errors="replace").split()), entry.name


def _read_titles(path: Path, classes: tuple[str, ...]) -> dict[Key, Text]:
    """Return the titles by class and name.

    Titles with commas or quotes are not always quoted, and a CSV parser would let a title that only begins with a quote
    extend over the following rows. So the title is the text between the first and the last comma of a line.

    Raises:
        DataError: If a row has fewer than three values, or a class without a folder of images.
    """
    known = set(classes)
    found: dict[Key, Text] = {}
    expected = "image name, title and class in every line"
    check_regular_file(path, expected=expected, error=DataError)
    check_no_lfs_pointer(path, expected=expected, error=DataError)
    with reading(path, expected=expected, error=DataError), path.open("rb") as file:
        for number, line in enumerate(Lines(path, file), start=1):
            if not line.strip():
                continue
            name, first, rest = line.strip().partition(",")
            title, last, class_name = (_unquote(part.strip()) for part in rest.rpartition(","))
            if not first or not last:
                raise DataError(
                    f"{path}, row {number}: too few values; expected image name, title, class, got "
                    f"{shown(line.strip())}"
                )
            class_name = _composed(class_name)
            if class_name not in known:
                raise DataError(
                    f"{path}, row {number}: class {shown(class_name)} has no folder of images; expected one of the "
                    f"{len(classes)} classes ({shortened_list(classes)})"
                )
            found[class_name, _composed(Path(_unquote(name.strip())).stem)] = title, f"{path.name}, row {number}"
    return found


def _unquote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1].replace('""', '"').strip()
    return value
