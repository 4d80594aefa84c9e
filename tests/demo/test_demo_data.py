"""The demonstration data set is what its description says, and no split leaks into another.

Nothing of `demo` is imported: words and likeness are measured here in other ways than by the
script that made the data.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

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
# Root-mean-square difference of two pictures at 32x32 in colour, as a share of the ink (distance
# to white) of the fainter one: 0 for equal pictures, about 1.4 for unrelated ones.
NEAR_IDENTICAL = 0.30
Row = dict[str, str]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The manifest."""
    with (DATA / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def pictures(rows: list[Row]) -> np.ndarray:
    """All the pictures, in the order of the manifest; reading them checks form and size."""
    decoded = []
    with zipfile.ZipFile(DATA / "images.zip") as archive:
        for row in rows:
            with Image.open(io.BytesIO(archive.read(row["image"]))) as picture:
                assert picture.size == (64, 64)
                assert picture.mode == "RGB"
                decoded.append(np.asarray(picture))
    return np.stack(decoded)


def test_archive_is_small_stored_and_complete(rows: list[Row]) -> None:
    """The zip holds the manifest's pictures and nothing else, with fixed dates."""
    assert (DATA / "images.zip").stat().st_size <= 20_000_000
    with zipfile.ZipFile(DATA / "images.zip") as archive:
        entries = archive.infolist()
    assert sorted(entry.filename for entry in entries) == sorted(row["image"] for row in rows)
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


def test_counts_and_classes(rows: list[Row]) -> None:
    """At least 3,000 drawings, all the 15 classes in every split, and the caps."""
    assert len(rows) >= 3000
    assert list(rows[0]) == ["image", "text", "label", "split", "family", "source"]
    for split in SHARES:
        assert {row["label"] for row in rows if row["split"] == split} == CLASSES
    assert {row["split"] for row in rows} == set(SHARES)
    assert max(Counter(row["label"] for row in rows).values()) <= 760
    assert len({row["source"] for row in rows}) == len(rows)


def test_every_class_is_split_as_a_whole(rows: list[Row]) -> None:
    """Each split's share of a class is right within two drawings or two hundredths."""
    totals = Counter(row["label"] for row in rows)
    counts = Counter((row["label"], row["split"]) for row in rows)
    for label, total in totals.items():
        for split, share in SHARES.items():
            off = abs(counts[label, split] - share * total)
            assert off <= max(2.0, 0.02 * total), (label, split, counts[label, split], total)


def test_no_family_in_two_splits(rows: list[Row]) -> None:
    """A family lies in one split, and so do the drawings of one numbered series."""
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


def test_no_near_identical_pictures_in_two_splits(rows: list[Row], pictures: np.ndarray) -> None:
    """Distance, where the families were found by correlation; and no picture occurs twice."""
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


def test_text_does_not_hold_the_label(rows: list[Row]) -> None:
    """No word of the class, or of a folder on the path, in singular or plural, is in the text."""

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


def test_held_out_covers_validation_and_test(rows: list[Row]) -> None:
    """Pretraining is kept from validation and test, but not from the training drawings."""
    held_out = set((DATA / "held_out.txt").read_text(encoding="utf-8").split())
    assert {row["source"] for row in rows if row["split"] != "train"} <= held_out
    free = [row for row in rows if row["split"] == "train" and row["source"] not in held_out]
    assert len(free) > 1000
