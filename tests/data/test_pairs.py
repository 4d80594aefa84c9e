"""Items of retrieval: what counts as equal, and data that cannot be searched."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.common.errors import DataError
from nas.config.data_schema import DataConfig
from nas.data.dataset import read_all_samples, read_dataset
from nas.data.pairs import check_negatives, normal_text, pair_items
from nas.data.samples import label_kind
from nas.data.summary import summarize

ROWS = (
    ("a.png", "A red  Square", "train"),
    ("a.png", "something red", "train"),
    ("copy.png", "a red square", "train"),
    ("b.png", "ﬁve dots", "train"),
    ("b.png", "a RED square", "validation"),
    ("c.png", "five dots", "validation"),
    ("d.png", "nothing", "test"),
    ("e.png", "nothing else", "test"),
)


def write_pairs(root: Path, *, label: bool = False) -> DataConfig:
    """Write a manifest of pairs, in which copy.png has the content of a.png."""
    for index, name in enumerate("abcde"):
        Image.new("RGB", (8, 8), (40 * index, 10, 10)).save(root / f"{name}.png")
    (root / "copy.png").write_bytes((root / "a.png").read_bytes())
    with (root / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "split", *(["label"] if label else [])])
        writer.writerows([*row, *(["x"] if label else [])] for row in ROWS)
    return DataConfig(manifest=str(root / "pairs.csv"), task="retrieval")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("  A\tred \n cat ", "a red cat"), ("ﬁve Ⅳ", "five iv"), ("STRASSE", "strasse"), ("Straße", "strasse"), ("", "")],
)
def test_texts_are_equal_up_to_unicode_case_and_blanks(text: str, expected: str) -> None:
    assert normal_text(text) == expected


def test_items_are_numbered_by_their_first_row() -> None:
    items = pair_items(["x", "y", "x2", "z"], ["one", "two", "ONE", "two"], {"x2": "x"})
    assert items.tolist() == [[0, 0], [1, 1], [0, 0], [2, 1]] and label_kind(items) == "pairs"


@pytest.mark.parametrize("rows", [[[0, 0], [0, 1]], [[0, 0], [1, 0]], [[0, 0], [0, 1], [1, 0], [1, 1]]])
def test_items_that_cannot_be_told_apart_are_refused(rows: list[list[int]]) -> None:
    with pytest.raises(DataError, match=r"pairs\.csv, test: retrieval has nothing to tell apart; expected at least"):
        check_negatives(np.array(rows), "pairs.csv, test")


def test_equal_pictures_and_texts_of_a_data_set_are_one_item(tmp_path: Path) -> None:
    dataset = read_dataset(write_pairs(tmp_path), ("train", "validation", "test"))
    assert dataset.class_names == ()
    assert dataset.splits["train"].labels.tolist() == [[0, 0], [0, 1], [0, 0], [1, 2]]
    assert dataset.splits["validation"].labels.tolist() == [[0, 0], [1, 1]]
    assert "4 pairs of 2 different pictures and 3 different texts" in summarize(dataset)[0]
    whole, _ = read_all_samples(write_pairs(tmp_path), ())
    assert whole.labels[4].tolist() == [1, 0] and whole.labels[5].tolist() == [2, 2]


def test_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"pairs\.csv: has a column 'label'; with data\.task: retrieval, expected pairs"
    ):
        read_dataset(write_pairs(tmp_path, label=True), ("train",))
