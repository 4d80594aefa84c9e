"""SNLI-VE (Xie et al., 2019), as it is distributed: whether a sentence follows from a picture of Flickr30k.

snli_ve_{train,dev,test}.jsonl     Flickr30K_ID, sentence2, gold_label a line
flickr30k_images/<id>.jpg
"""

import json
from collections import Counter
from pathlib import Path

from nas.common.errors import DataError
from nas.data.dataset import Found, Sample
from nas.data.images import ImageSource, open_images
from nas.data.readers.base import Reader
from nas.data.readers.manifest import as_text

LABELS = ("contradiction", "entailment", "neutral")
UNDECIDED = "-"
"""The gold label of SNLI's sentences whose annotators did not agree."""

_FILES = {"train": "train", "validation": "dev", "test": "test"}
_KEYS = ("Flickr30K_ID", "sentence2", "gold_label")


class SNLIVEReader(Reader):
    """Reads all sentences with a gold label; many share a picture."""

    def find_samples(self) -> Found:
        return _find(self.folder)

    def open_images(self) -> ImageSource:
        return open_images(self.folder / "flickr30k_images")


def _find(root: Path) -> Found:
    left_out = Counter[str]()
    splits: dict[str, list[Sample]] = {}
    for split, name in _FILES.items():
        path = root / f"snli_ve_{name}.jsonl"
        splits[split] = []
        try:
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    if not line.strip():
                        continue
                    place = f"{path.name}, row {number}"
                    image, text, label = _values(root, place, line)
                    if label == UNDECIDED or not text:
                        left_out["sentences without gold label" if label == UNDECIDED else "empty sentences"] += 1
                        continue
                    splits[split].append(Sample(f"{image.removesuffix('.jpg')}.jpg", text, (label,), place))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
    return Found(str(root), splits, class_names=LABELS, left_out=dict(left_out))


def _values(root: Path, place: str, line: str) -> tuple[str, str, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{root}, {place}: is not JSON: {error}") from error
    missing = [key for key in _KEYS if not isinstance(row, dict) or key not in row]
    if missing:
        raise DataError(f"{root}, {place}: there is no key {', '.join(map(repr, missing))}")
    image, text, label = (as_text(row[key], f"{root}, {place}: {key}") for key in _KEYS)
    if not image:
        raise DataError(f"{root}, {place}: {_KEYS[0]} is empty; every sentence needs a picture")
    return image, text, label
