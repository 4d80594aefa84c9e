"""Show a run in a notebook and on a terminal."""

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas.common.errors import NasError
from nas.common.units import format_bytes
from nas.run.api.trials import read_studies
from nas.run.progress_lines import counts_text
from nas.run.roles import BEST, SIMPLE_MODELS
from nas.search.trial import STAGES

if TYPE_CHECKING:
    from nas.run.api.run import Run

_HEADER = ("", "validation", "test", "parameters", "training memory", "latency")


def run_as_text(run: "Run") -> str:
    """Return a run in one line: its directory, its state, and how many candidates it has.

    Args:
        run: The run.

    Raises:
        NasError: If it cannot be read.
    """
    return f"Run({str(run.directory)!r}, {run.state}: {_counts(run)})"


def run_as_html(run: "Run") -> str:
    """Return a run as HTML for notebooks: its state, the verdict, and a table of the exported models.

    Args:
        run: The run.
    """
    try:
        parts = [
            f"<b>{html.escape(str(run.directory))}</b> ({html.escape(run.state)}): {html.escape(_counts(run))}",
            f"<p>{html.escape(run.verdict)}</p>",
            _table(run.report),
        ]
    except NasError as error:
        parts = [f"<b>{html.escape(str(run.directory))}</b><pre>{html.escape(str(error))}</pre>"]
    return f"<div>{''.join(parts)}</div>"


def _counts(run: "Run") -> str:
    studies = read_studies(run.directory)
    return counts_text({stage: sum(entry.study.count(stage) for entry in studies) for stage in STAGES})


def _table(report: Mapping[str, Any]) -> str:
    """Return the exported models as a table; nothing before there are any."""
    models = {role: report[role] for role in (BEST, *(model.role for model in SIMPLE_MODELS)) if report.get(role)}
    if not models:
        return ""
    metric = next(iter(models.values()))["objective"]
    rows = []
    for role, entry in models.items():
        title = f"answer ({entry.get('role', BEST)})" if role == BEST else role
        latency = entry.get("latency_seconds")
        rows.append(
            (
                title,
                *(f"{entry[split][metric]:.3f}" for split in ("validation", "test")),
                f"{entry['trainable_parameters']:,}",
                format_bytes(entry["predicted_peak_bytes"]),
                "" if latency is None else f"{1000 * latency:.1f} ms",
            )
        )
    header = [f"{title} {metric}" if title in ("validation", "test") else title for title in _HEADER]
    lines = [_line("th", header), *(_line("td", row) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def _line(tag: str, cells: Any) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
