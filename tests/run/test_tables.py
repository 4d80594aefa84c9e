"""Tables as text and Markdown."""

import pytest

from nas.run.tables import csv_cell, markdown_table, text_table

HEADER = ("", "architecture", "accuracy")
ROWS = [("best", "M=[2] h=4", "0.5 ± 0.1"), ("PMF default", "–", "")]


def test_text_table_is_aligned_by_spaces_and_keeps_cells_as_they_are() -> None:
    assert text_table(HEADER, ROWS).splitlines() == [
        "             architecture  accuracy",
        "------------ ------------- ---------",
        "best         M=[2] h=4     0.5 ± 0.1",
        "PMF default  –",
    ]


def test_markdown_table_has_one_line_for_each_row() -> None:
    assert markdown_table(HEADER, ROWS).splitlines() == [
        "|             | architecture | accuracy  |",
        "|-------------|--------------|-----------|",
        "| best        | M=[2] h=4    | 0.5 ± 0.1 |",
        "| PMF default | –            |           |",
    ]


def test_long_rows_are_not_wrapped() -> None:
    assert len(text_table(("name", "value"), [("x" * 200, "y" * 200)]).splitlines()) == 3


@pytest.mark.parametrize("text", ["=1+1", "+1", "-cmd", "@sum", " =1", "\t=1", "\r=1"])
def test_text_that_a_spreadsheet_would_run_is_marked_as_text(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", [-0.5, 0, None, True, "", "1/2,3", "a = b", "'"])
def test_other_cells_stay_as_they_are(value: object) -> None:
    assert csv_cell(value) == value
