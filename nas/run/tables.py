"""Tables of text for terminals and Markdown, laid out by rich."""

import io
import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from nas.common.output import visible

_HEADER_ONLY = box.Box("    \n    \n -  \n    \n    \n    \n    \n    \n", ascii=True)
"""Columns separated by spaces, with a line of dashes below the header."""


def markdown_text(text: str) -> str:
    """Return a text that Markdown shows as it is: on one line, without markup, links or breaks of a table.

    Args:
        text: A text with any characters, such as the name of a class.
    """
    return re.sub(r"[\\`*_{}\[\]<>|~&#$!@:]", r"\\\g<0>", " ".join(visible(text).split()))


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal or a log.

    Args:
        header: The titles of the columns.
        rows: The cells of each row.
    """
    return _rendered(header, rows, _HEADER_ONLY)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown.

    Args:
        header: The titles of the columns.
        rows: The cells of each row.
    """
    return _rendered(header, rows, box.MARKDOWN)


def _rendered(header: Sequence[str], rows: Sequence[Sequence[str]], style: box.Box) -> str:
    is_markdown = style is box.MARKDOWN
    table = Table(
        box=style, show_edge=is_markdown, pad_edge=is_markdown, padding=(0, 1, 0, int(is_markdown)), safe_box=False
    )
    for title in header:
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    buffer = io.StringIO()
    # Wide enough for every row: a log or a file keeps its lines whole.
    console = Console(file=buffer, width=10_000, markup=False, highlight=False, emoji=False, color_system=None)
    console.print(table, soft_wrap=True)
    lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
    return "\n".join(line for line in lines if line)  # the edges of the Markdown style are empty lines


def csv_cell(value: object) -> object:
    """Return a cell of a CSV file; text that a spreadsheet would run as a formula begins with an apostrophe.

    Args:
        value: The value of the cell; numbers stay as they are.
    """
    is_formula = isinstance(value, str) and value.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value
