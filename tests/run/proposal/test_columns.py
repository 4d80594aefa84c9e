"""Finding the columns of a table."""

from typing import Any

import pytest

from nas.common.errors import ArgumentError
from nas.run.proposal.columns import TableColumns, find_columns, label_separator


def table(**columns: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


FILES = ["a.jpg", "b.jpg", "c.PNG", "d.jpeg"]
TEXTS = ["a red apple on a table", "two dogs", "the sea", "a red apple"]
KINDS = ["food", "animal", "place", "food"]


def test_columns_are_found_by_their_usual_names() -> None:
    rows = table(file=FILES, caption=TEXTS, category=KINDS)
    assert find_columns(rows, {}) == TableColumns("file", "caption", "category", None, None)


def test_columns_with_other_names_are_found_by_their_values() -> None:
    rows = table(nr=[1, 2, 3, 4], Bild=FILES, Art=KINDS, Beschreibung=TEXTS, Teil=["train", "val", "test", "train"])
    assert find_columns(rows, {}) == TableColumns("Bild", "Beschreibung", "Art", "Teil", None)


def test_column_of_another_meaning_is_no_split() -> None:
    rows = table(image=FILES, text=TEXTS, label=KINDS, set=["north", "south", "north", "south"])
    assert find_columns(rows, {}).split is None


def test_named_columns_are_kept() -> None:
    rows = table(image=FILES, text=TEXTS, label=KINDS, title=TEXTS[::-1], genre=KINDS[::-1])
    found = find_columns(rows, {"text": "title", "label": "genre"})
    assert (found.image, found.text, found.label) == ("image", "title", "genre")


def test_missing_named_column_is_an_error_with_those_that_exist() -> None:
    with pytest.raises(ArgumentError, match=r"--label: no such column; expected one of 'image', 'text', got 'kind'"):
        find_columns(table(image=FILES, text=TEXTS), {"label": "kind"})


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"image": FILES, "caption": TEXTS}, "caption"),
        ({"image": FILES, "sentence": ["dogs", "dogs", "dogs", "the sea"]}, "sentence"),
        ({"image": FILES, "Satz": ["dogs", "dogs", "dogs", "the sea"]}, "Satz"),
        ({"file_name": ["a.jpg", "a.jpg", "b.jpg", "b.jpg"], "nr": [7, 7, 9, 9], "caption": TEXTS}, "caption"),
        ({"id": ["x1", "x2", "x3", "x4"], "image": FILES, "text": ["dogs", "dogs", "cats", "the sea"]}, "text"),
    ],
)
def test_table_without_labels_is_one_of_pairs(columns: dict[str, list[Any]], text: str) -> None:
    found = find_columns(table(**columns), {})
    assert (found.text, found.label, found.label_separator) == (text, None, None)
    with pytest.raises(ArgumentError, match=r"no column looks like one of (labels|texts)"):
        find_columns(table(**columns), {}, "classification")


def test_pairs_may_have_other_columns_and_none_of_labels_is_searched() -> None:
    rows = table(image=FILES, text=TEXTS, kind=KINDS)
    assert find_columns(rows, {}).label == "kind"
    assert find_columns(rows, {}, "retrieval").label is None
    assert find_columns(table(image=FILES, text=KINDS, kind=KINDS[::-1]), {"label": "text"}).label == "text"


def test_table_without_images_is_an_error_with_its_columns() -> None:
    with pytest.raises(ArgumentError, match=r"--image: no column looks like one of images; expected one of 'text', "):
        find_columns(table(text=TEXTS, kind=KINDS), {})


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["a|b", "b", "a|c", "c"], "|"),
        (["a, b", "b", "a, c", "c", "b, c"], ","),
        ([["a", "b"], ["b"]], "|"),
        (["home, garden", "tools", "home, garden", "tools"], None),
        (["a", "b", None, "a"], None),
    ],
)
def test_several_labels_in_a_cell_are_distinguished_from_names_with_commas(
    cells: list[Any], separator: str | None
) -> None:
    assert label_separator(cells) == separator
