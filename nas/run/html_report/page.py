"""Put the report of a run together: one HTML file that asks no host for anything."""

import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from nas.run.html_report.style import Figure

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
    "form-action 'none'"
)
"""A browser may load nothing but what is in the file."""


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Args:
        key: The name of its anchor.
        title: Its heading.
        body: Its content as HTML.
        short: Its name in the list of sections; None for the heading.
    """

    key: str
    title: str
    body: str
    short: str | None = None


class PageFigures:
    """Collects the figures of a page, which are drawn when they come into view."""

    def __init__(self) -> None:
        self._figures: dict[str, Figure] = {}

    def add(self, found: Figure | None, *, empty: str, label: str, caption: str = "", min_width: int = 0) -> str:
        """Return the HTML of a figure, or a line about why there is none.

        Args:
            found: The figure; None if there is nothing to show.
            empty: Why there may be none, in one line.
            label: What it shows, for those who cannot see it.
            caption: How to read it.
            min_width: The width in pixels below which the figure is scrolled.
        """
        if found is None:
            return note(empty)
        key = f"figure-{len(self._figures) + 1}"
        self._figures[key] = found
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        size = f"height:{found['layout']['height']}px" + (f";min-width:{min_width}px" if min_width else "")
        plot = f'<div class="plot" id="{key}" role="img" aria-label="{escape(label)}" style="{size}"></div>'
        if min_width:
            plot = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{plot}</div>'
        return f"<figure>{plot}{below}</figure>"

    def as_json(self) -> str:
        """Return all figures as JSON that may stand in a script element."""
        return for_script(self._figures)


def escape(text: object) -> str:
    """Return a text in which nothing is markup, also not in an attribute."""
    return html.escape(str(text))


def note(text: str) -> str:
    """Return a paragraph in a quiet colour."""
    return f'<p class="quiet">{escape(text)}</p>'


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str) -> str:
    """Return a table; columns of numbers are aligned to the right.

    Args:
        header: The titles of the columns.
        rows: The cells of each row, the first of which is its heading.
        caption: What the table shows, for those who cannot see it.
    """
    listed = list(rows)
    numeric = [all(_is_number(row[column]) for row in listed) for column in range(1, len(header))]
    kinds = [_NUMBER if is_numeric else "" for is_numeric in (False, *numeric)]
    head = "".join(f'<th scope="col"{kind}>{escape(title)}</th>' for title, kind in zip(header, kinds, strict=True))
    lines = []
    for first, *others in listed:
        cells = "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(others, kinds[1:], strict=True))
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f'<caption class="hidden">{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


_NUMBER = ' class="number"'


def _is_number(cell: object) -> bool:
    return bool(re.fullmatch(r"[−+-]?[\d,.]+( ± [\d.]+)?( ?(%|s|ms|[KMGT]?i?B))?|–", str(cell)))


def details(title: str, body: str) -> str:
    """Return content that is folded away.

    Args:
        title: What is folded away.
        body: The content as HTML.
    """
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def for_script(values: object) -> str:
    """Return values as JSON in which nothing ends a script element; numbers that JSON lacks are null."""
    text = json.dumps(_finite(values), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and (not math.isfinite(value)) else value


@dataclass(frozen=True)
class Page:
    """A whole report.

    Args:
        title: Its title.
        lead: The verdict in one sentence.
        subtitle: A line about the run.
        sections: Its sections.
        figures: The figures of the sections.
        written: The time at which it was written, in seconds since the epoch.
        is_live: Whether it is written again soon, so that it reloads itself.
    """

    title: str
    lead: str
    subtitle: str
    sections: Sequence[Section]
    figures: PageFigures
    written: float
    is_live: bool

    def as_html(self) -> str:
        """Return the content of the file."""
        links = "".join(f'<a href="#{entry.key}">{escape(entry.short or entry.title)}</a>' for entry in self.sections)
        body = "".join(
            f'<section id="{entry.key}" aria-labelledby="{entry.key}-title"><h2 id="{entry.key}-title">'
            f"{escape(entry.title)}</h2>{entry.body}</section>"
            for entry in self.sections
        )
        state = (
            '<p class="live" role="status"><span class="dot"></span><span id="live-text">running</span> '
            '<button id="pause" type="button" aria-pressed="false">pause updates</button></p>'
            if self.is_live
            else ""
        )
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
            f'<link rel="icon" href="data:,"><title>{escape(self.title)}</title>'
            f"<style>{asset('report.css')}</style></head>"
            f'<body data-written="{self.written:.0f}" data-live="{str(self.is_live).lower()}">'
            '<a class="skip" href="#content">Skip to the content</a>'
            f'<header><p class="run">{escape(self.subtitle)}</p><h1>{escape(self.title)}</h1>'
            f'<p class="lead">{escape(self.lead)}</p>{state}</header>'
            f'<nav aria-label="Sections">{links}</nav><main id="content">{body}</main>'
            "<footer>Written by pmf-nas. Everything is in this file; it loads nothing from any other place.</footer>"
            f'<script type="application/json" id="figures">{self.figures.as_json()}</script>'
            f"<script>{_plotly()}</script><script>{asset('report.js')}</script></body></html>\n"
        )


@cache
def asset(name: str) -> str:
    """Return a file of the folder `assets`.

    Args:
        name: The name of the file.
    """
    return files("nas.run.html_report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """Return plotly.js, in which nothing may end the script element."""
    return asset("plotly-cartesian.min.js").replace("</script", "<\\/script")
