"""The demo data set matches its description, and no split leaks into another.

Nothing of `demo` is imported: words and similarity are measured independently of the script that built the data.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.paths import REPOSITORY

DATA = REPOSITORY / "demo" / "data"
CLASSES = {
    "animals",
    "buildings",
    "computer",
    "education",
    "electronics",
    "food",
    "geography",
    "office",
    "people",
    "plants",
    "recreation",
    "science",
    "signs_and_symbols",
    "tools",
    "transportation",
}
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
# Root-mean-square difference of two images at 32x32 in colour, relative to the ink (distance to white) of the fainter
# one: 0 for equal images, about 1.4 for unrelated ones.
NEAR_IDENTICAL = 0.30
Row = dict[str, str]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Return the rows of the manifest."""
    with (DATA / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def pictures(rows: list[Row]) -> np.ndarray[Any, Any]:
    """Return all images in the order of the manifest, after checking their mode and size."""
    decoded = []
    with zipfile.ZipFile(DATA / "images.zip") as archive:
        for row in rows:
            with Image.open(io.BytesIO(archive.read(row["image"]))) as picture:
                assert picture.size == (64, 64)
                assert picture.mode == "RGB"
                decoded.append(np.asarray(picture))
    return np.stack(decoded)


def test_archive_is_small_uncompressed_and_complete(rows: list[Row]) -> None:
    """The archive has exactly the images of the manifest, with fixed dates."""
    assert (DATA / "images.zip").stat().st_size <= 20_000_000
    with zipfile.ZipFile(DATA / "images.zip") as archive:
        entries = archive.infolist()
    assert sorted(entry.filename for entry in entries) == sorted(row["image"] for row in rows)
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


def test_data_set_has_the_described_size_classes_and_caps(rows: list[Row]) -> None:
    """It has at least 3,000 drawings, all 15 classes in every split, and at most 760 drawings a class."""
    assert len(rows) >= 3000
    assert list(rows[0]) == ["image", "text", "label", "split", "family", "source"]
    for split in SHARES:
        assert {row["label"] for row in rows if row["split"] == split} == CLASSES
    assert {row["split"] for row in rows} == set(SHARES)
    assert max(Counter(row["label"] for row in rows).values()) <= 760
    assert len({row["source"] for row in rows}) == len(rows)


def test_every_class_is_split_in_the_described_ratio(rows: list[Row]) -> None:
    """The fraction of a class in each split is exact to two drawings or two percent."""
    totals = Counter(row["label"] for row in rows)
    counts = Counter((row["label"], row["split"]) for row in rows)
    for label, total in totals.items():
        for split, share in SHARES.items():
            off = abs(counts[label, split] - share * total)
            assert off <= max(2.0, 0.02 * total), (label, split, counts[label, split], total)


def test_no_family_is_in_two_splits(rows: list[Row]) -> None:
    """A family is in one split, and so are the drawings of a numbered series."""
    of_family: defaultdict[str, set[str]] = defaultdict(set)
    of_series: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        of_family[row["family"]].add(row["split"])
        path = Path(row["source"])
        series = re.sub(r"(_bw|_colou?r|[\d_-])+", "", path.stem.lower())
        if len(series) >= 3:
            of_series[str(path.parent), series].add(row["split"])
    assert max(map(len, of_family.values())) == 1
    assert {key for key, splits in of_series.items() if len(splits) > 1} == set()


def test_no_near_identical_images_are_in_two_splits(rows: list[Row], pictures: np.ndarray[Any, Any]) -> None:
    """Distances are checked, whereas families were found by correlation; and no image occurs twice."""
    count = len(pictures)
    small = pictures.reshape(count, 32, 2, 32, 2, 3).mean(axis=(2, 4), dtype=np.float32)
    ink = 255.0 - small.reshape(count, -1)
    squares = (ink * ink).sum(axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * ink @ ink.T, 0.0))
    relative = distance / np.sqrt(np.minimum(squares[:, None], squares))
    split = np.array([row["split"] for row in rows])
    first, second = np.nonzero((relative < NEAR_IDENTICAL) & (split[:, None] != split))
    found = [(rows[a]["source"], rows[b]["source"]) for a, b in zip(first, second, strict=True)]
    assert found == []
    assert len({picture.tobytes() for picture in pictures}) == count


def test_text_does_not_contain_the_label(rows: list[Row]) -> None:
    """No text has a word of its class or of a folder on its path, in singular or plural."""

    def stem(word: str) -> str:
        plain = "".join(c for c in unicodedata.normalize("NFKD", word) if c.isalpha()).lower()
        return re.sub(r"(?<=[^s])s$", "", re.sub(r"ies$", "y", plain))

    class_words = {stem(word) for label in CLASSES for word in label.split("_")}
    for row in rows:
        assert row["text"].strip()
        folders = re.split(r"[/_\W]+", str(Path(row["source"]).parent))
        banned = (class_words | {stem(word) for word in folders}) - {"and", "of", "the", ""}
        words = {stem(word) for word in re.split(r"[\W_\d]+", row["text"])} - {""}
        assert not words & banned, (row["source"], row["text"], words & banned)


def test_held_out_list_covers_validation_and_test(rows: list[Row]) -> None:
    """Pretraining excludes validation and test, but may use training drawings."""
    held_out = set((DATA / "held_out.txt").read_text(encoding="utf-8").split())
    assert {row["source"] for row in rows if row["split"] != "train"} <= held_out
    free = [row for row in rows if row["split"] == "train" and row["source"] not in held_out]
    assert len(free) > 1000
