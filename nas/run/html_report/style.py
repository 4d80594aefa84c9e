"""The look that all figures of a report share: colours for both themes, axes with titles, texts that are no markup."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from nas.run.progress_lines import STAGE_VERBS
from nas.search.trial import Stage

Figure = dict[str, Any]
"""A figure of plotly as plain values: `data`, a list of traces, and `layout`; see `nas.run.html_report.figures`."""

Trace = dict[str, Any]

STAGE_COLORS: Mapping[Stage, str] = {"one_shot": "#8595ab", "short": "#d98b2b", "full": "#3f7fd0"}
STAGE_SYMBOLS: Mapping[Stage, str] = {"one_shot": "circle", "short": "square", "full": "diamond"}
"""Stages differ in shape as well, for readers who cannot tell the colours apart."""

ACCENT, QUIET, GOOD, BAD = "#3f7fd0", "#8595ab", "#2f9e77", "#cf4b5b"
SIMPLE_COLORS = {"linear": "#8d6cc4", "bilinear": "#2f9e77", "default": "#c2577f"}
"""Colours of the simpler models by their roles."""

SHADES = [[0.0, "rgba(63,127,208,0.03)"], [0.02, "rgba(63,127,208,0.10)"], [1.0, "rgba(63,127,208,0.85)"]]
"""A scale of colours that begins near the background, whichever it is."""

MEBIBYTE = 1024**2


def plain(text: object, limit: int = 80) -> str:
    """Return a text for a figure: on one line, shortened, and without what plotly takes for markup.

    Args:
        text: Any text, such as the name of a class.
        limit: The number of characters to keep.
    """
    line = " ".join(str(text).split())
    return html.escape(line if len(line) <= limit else f"{line[: limit - 1]}…", quote=False)


def axis(title: str = "", **settings: Any) -> dict[str, Any]:
    """Return an axis.

    Args:
        title: The quantity and its unit.
        settings: Further settings of plotly.
    """
    named: dict[str, Any] = {"title": {"text": title, "standoff": 10}} if title else {}
    return {"automargin": True, "zeroline": False, **named, **settings}


def figure(traces: Sequence[Trace], *, x: dict[str, Any], y: dict[str, Any], height: int, **layout: Any) -> Figure:
    """Return a figure with one pair of axes.

    Args:
        traces: The traces.
        x: The horizontal axis; see `axis`.
        y: The vertical axis.
        height: The height in pixels.
        layout: Further settings of the layout.
    """
    return {
        "data": list(traces),
        "layout": {
            "height": height,
            "margin": {"l": 8, "r": 8, "t": 12, "b": 8},
            "hovermode": "closest",
            "showlegend": sum(trace.get("showlegend", True) for trace in traces) > 1,
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
            "xaxis": x,
            "yaxis": y,
            **layout,
        },
    }


def points(stage: Stage, x: Sequence[float], y: Sequence[float], texts: Sequence[str], **settings: Any) -> Trace:
    """Return the points of the candidates of one stage.

    Args:
        stage: The stage.
        x: Their horizontal values.
        y: Their vertical values.
        texts: What is shown of each when it is pointed at.
        settings: Further settings of the trace.
    """
    size = 6 if stage == "one_shot" else 9
    marker: dict[str, Any] = {"color": STAGE_COLORS[stage], "symbol": STAGE_SYMBOLS[stage], "size": size}
    if stage == "one_shot":
        marker["opacity"] = 0.65
    return {
        "type": "scatter",
        "mode": "markers",
        "name": STAGE_VERBS[stage],
        "x": list(x),
        "y": list(y),
        "text": list(texts),
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker,
        **settings,
    }


def line(name: str, x: Sequence[Any], y: Sequence[Any], color: str, **settings: Any) -> Trace:
    """Return a line.

    Args:
        name: What it stands for.
        x: Its horizontal values; None ends a part.
        y: Its vertical values.
        color: Its colour.
        settings: Further settings of the trace.
    """
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(x),
        "y": list(y),
        "line": {"color": color, "width": 1.5, **settings.pop("line", {})},
        **settings,
    }


def rounded(value: float) -> float:
    """Return a number with the six digits that a figure shows at most."""
    return float(f"{value:.6g}")


def without_legend(found: Figure | None) -> Figure | None:
    """Return a figure without its legend, which others beside it share.

    Args:
        found: The figure; None if there is nothing to show.
    """
    return None if found is None else {**found, "layout": {**found["layout"], "showlegend": False}}
