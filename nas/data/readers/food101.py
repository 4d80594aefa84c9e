"""UPMC Food-101 (Wang et al., ICME Workshops 2015), as it is distributed: dishes with the web pages they were found on.

    images/{train,test}/<class>/<name>.jpg
    texts/{train,test}_titles.csv          no header; image name, title, class
    texts_txt/<class>/<name>.txt           texts of the pages, in place of the titles

There is no validation split: `data.held_out.validation` takes one from train.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from nas.common.errors import DataError
from nas.data.dataset import LISTED, Found, Sample
from nas.data.images import ImageSource, open_images
from nas.data.readers.base import Reader

_SPLITS = ("train", "test")
_SUFFIXES = (".jpg", ".jpeg", ".png")

Text = tuple[str, str]
"""A text, and where it was found."""

Key = tuple[str, str]
"""Class and name, which an image and its text share."""


class Food101Reader(Reader):
    """Reads images that have a text; other images, and texts without an image, are counted and left out."""

    def find_samples(self) -> Found:
        return _find(self.folder, self.config.texts)

    def open_images(self) -> ImageSource:
        return open_images(self.folder / "images")


def _find(root: Path, text_source: str) -> Found:
    folder = root / "images"
    images = {split: {_key(path): path for path in _images(folder / split)} for split in _SPLITS}
    folders = tuple(sorted({name for found in images.values() for name, _ in found}))
    classes = tuple(sorted({name for name, _ in images["train"]}))  # one that only test has is a label nobody knows
    texts: Mapping[str, Mapping[Key, Text | Path]]
    if text_source == "pages":
        pages = _pages(root / "texts_txt")
        texts = dict.fromkeys(_SPLITS, pages)
        lonely = sum(key not in images["train"] and key not in images["test"] for key in pages)
    else:
        texts = {split: _titles(root / "texts" / f"{split}_titles.csv", folders) for split in _SPLITS}
        lonely = sum(key not in images[split] for split in _SPLITS for key in texts[split])
    splits: dict[str, list[Sample]] = {}
    for split in _SPLITS:
        splits[split] = [
            Sample(path.relative_to(folder).as_posix(), text, (key[0],), place)
            for key, path in sorted(images[split].items())
            if (entry := texts[split].get(key)) is not None
            for text, place in [_read(entry)]
            if text
        ]
    without = sum(len(images[split]) - len(splits[split]) for split in _SPLITS)
    left_out = {"images without text": without, "texts without image": lonely}
    return Found(
        str(root), splits, class_names=classes, left_out={reason: count for reason, count in left_out.items() if count}
    )


def _key(path: Path) -> Key:
    return path.parent.name, path.stem


def _images(folder: Path) -> Iterator[Path]:
    try:
        for of_class in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from (path for path in sorted(of_class.iterdir()) if path.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); expected a folder for every class") from error


def _pages(folder: Path) -> dict[Key, Path]:
    """Files of texts; some are named after the whole image file, its suffix included."""
    try:
        classes = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); expected a folder for every class") from error
    found = {}
    for of_class in classes:
        for path in of_class.glob("*.txt"):
            stem = Path(path.stem)
            found[of_class.name, stem.stem if stem.suffix.lower() in _SUFFIXES else path.stem] = path
    return found


def _read(entry: Text | Path) -> Text:
    if not isinstance(entry, Path):
        return entry
    try:
        return " ".join(entry.read_text(encoding="utf-8", errors="replace").split()), entry.name
    except OSError as error:
        raise DataError(f"{entry}: cannot be read: {error.strerror}") from error


def _titles(path: Path, classes: tuple[str, ...]) -> dict[Key, Text]:
    """Titles by class and name.

    Titles with commas or quotes are not in quotes everywhere, and one that only begins with a quote would swallow the
    rows behind it: what stands between the first and the last comma of a line is the title.

    Raises:
        DataError: If a row has fewer than three values, or a class of which there is no image.
    """
    known = set(classes)
    found: dict[Key, Text] = {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                place = f"{path.name}, row {number}"
                name, first, rest = line.strip().partition(",")
                title, last, of_class = (_unquoted(part.strip()) for part in rest.rpartition(","))
                if not first or not last:
                    raise DataError(f"{path}, row {number}: expected image name, title, class, got {line.strip()!r}")
                if of_class not in known:
                    raise DataError(
                        f"{path}, row {number}: class {of_class!r} has no folder of images; expected one of "
                        f"{len(classes)} ({', '.join(classes[:LISTED])}, …)"
                    )
                found[of_class, Path(_unquoted(name.strip())).stem] = title, place
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return found


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1].replace('""', '"').strip()
    return value
