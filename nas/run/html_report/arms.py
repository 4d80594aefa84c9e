"""The report of a search over several encoders or families: its arms side by side, and the one that was searched."""

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import quote

from nas.common.files import write_atomically
from nas.common.progress import Reporter
from nas.common.units import format_bytes
from nas.run.arms.directory import arm_directory, read_arms_run
from nas.run.arms.report import read_arms_report
from nas.run.arms.state import STATE, ArmsState, LeftOut, ModelRow
from nas.run.directory import is_run
from nas.run.html_report.data import read_run_data
from nas.run.html_report.live import LiveReport
from nas.run.html_report.page import Page, PageFigures, Section, note, table
from nas.run.html_report.sections import lead
from nas.run.html_report.style import MEBIBYTE, Figure, axis, figure, plain, rounded
from nas.run.html_report.write import HTML_REPORT, run_sections
from nas.run.progress_lines import metric_title
from nas.search.metric_registry import METRICS

_COLORS = ("#3f7fd0", "#d98b2b", "#2f9e77", "#8d6cc4", "#cf4b5b", "#8595ab", "#b3689b", "#6f8f2f")
_SYMBOLS = {"default": "circle", "linear": "x", "best": "diamond"}


@dataclass(frozen=True)
class ArmsData:
    """The content of the directory of a search over arms at one moment.

    Args:
        directory: The directory.
        name: The name of the search.
        metric: Its metric.
        names: The names of the arms.
        models: The models of each arm that have a score, with its name.
        left_out: The arms that were left out, and why.
        rungs: The arms that went on after each rung.
        reports: The names of the arms that have a report of their own.
        winner: The arm that is searched; None while several are compared.
    """

    directory: Path
    name: str
    metric: str
    names: Sequence[str]
    models: Sequence[tuple[str, ModelRow]]
    left_out: Mapping[str, LeftOut]
    rungs: Sequence[Sequence[str]]
    reports: Sequence[str]
    winner: str | None


def read_arms_data(directory: Path) -> ArmsData:
    """Read the directory of a search over arms, also while it is running.

    Args:
        directory: The directory.

    Raises:
        NasError: If it holds no such search, or is damaged.
    """
    run, report = read_arms_run(directory), read_arms_report(directory)
    state = ArmsState(directory / STATE, run.names)
    models = [(name, row) for name in run.names if name in state.trials for row in state.trials[name].models]
    if report:
        names = [field.name for field in fields(ModelRow)]
        found = ((entry["arm"], {key: entry[key] for key in names}) for entry in report["models"])
        models = [(name, ModelRow.from_dict(values)) for name, values in found]
    config = run.arms[0].config
    reports = [name for name in run.names if (arm_directory(directory, name) / HTML_REPORT).exists()]
    return ArmsData(
        directory=directory,
        name=config.name,
        metric=config.search.objective,
        names=run.names,
        models=models,
        left_out=state.left_out,
        rungs=state.rungs,
        reports=reports,
        winner=state.winner,
    )


def write_arms_report(directory: Path, path: Path | None = None, *, is_live: bool = False) -> Path:
    """Write the report of a search over arms atomically.

    Args:
        directory: Its directory.
        path: The file; None for `report.html` in the directory.
        is_live: Whether the search is running; the arm that is searched then has a report of its own, which is linked.

    Returns:
        The file.

    Raises:
        NasError: If the directory holds no such search, or is damaged.
        OSError: If the file cannot be written; an old one is then untouched.
    """
    data, figures = read_arms_data(directory), PageFigures()
    winner = None if data.winner is None else arm_directory(directory, data.winner)
    sections = [_arms(data, figures, is_inside=path is None)]
    sentence = f"{len(data.names)} arms are compared; none is chosen yet."
    if data.winner is not None:
        sentence = f"Of {len(data.names)} arms, {data.winner} was chosen."
    if winner is not None and is_run(winner) and not is_live:
        searched = read_run_data(winner)
        sections += run_sections(searched, figures, is_live=False)
        sentence += f" {lead(searched)}"
    page = Page(
        title=data.name,
        lead=sentence,
        subtitle=f"search over {len(data.names)} arms in {directory}",
        sections=sections,
        figures=figures,
        written=time.time(),
        is_live=is_live,
    )
    target = directory / HTML_REPORT if path is None else path
    write_atomically(target, page.as_html().encode())
    return target


class ArmsReport(LiveReport):
    """Writes the report of a search over arms while it is running, and a last time when it has ended.

    Args:
        directory: Its directory.
        reporter: The receiver of messages.
    """

    def __init__(self, directory: Path, reporter: Reporter) -> None:
        super().__init__(
            lambda is_live: write_arms_report(directory, is_live=is_live), directory / HTML_REPORT, reporter
        )


def _arms(data: ArmsData, page: PageFigures, *, is_inside: bool) -> Section:
    """Return the section that compares the arms; inside the directory of the search it links to their reports."""
    metric = metric_title(data.metric)
    header = ("arm", "model", f"validation {metric}", "trainings", "parameters", "training memory")
    rows = [
        (
            name,
            row.model,
            f"{METRICS[data.metric].score(row.score):.3f}",
            str(row.trainings),
            f"{row.trainable_parameters:,}",
            format_bytes(row.predicted_peak_bytes),
        )
        for name, row in data.models
    ]
    label = "; ".join(f"{row[0]}, {row[1]}: {row[2]}" for row in rows)
    caption = "Arms are compared by their default, with more seeds in each round; the one that is left is searched."
    body = page.add(
        arms_front(data), empty="No arm has a score yet.", label=f"Models of the arms. {label}", caption=caption
    )
    if rows:
        body += table(header, rows, caption="Models of the arms")
    for number, names in enumerate(data.rungs, start=1):
        body += f"<p>After round {number}: {html.escape(', '.join(names))}</p>"
    for name, entry in data.left_out.items():
        needs = "" if entry.needed_bytes is None else f" (needs {format_bytes(entry.needed_bytes)})"
        body += note(f"Left out: {name}{needs}: {entry.reason}")
    for name in data.reports if is_inside else ():
        place = html.escape(quote(f"{arm_directory(Path(), name).as_posix()}/{HTML_REPORT}"))
        body += f'<p><a href="{place}">Report of {html.escape(name)}</a></p>'
    return Section("arms", "Arms", body)


def arms_front(data: ArmsData) -> Figure | None:
    """Return the metric of the models of all arms over their training memory.

    Args:
        data: The content of the directory of the search.
    """
    traces = []
    for color, name in zip(_COLORS * len(data.names), data.names, strict=False):
        # A solved classifier has no training whose memory could be compared.
        models = [row for arm, row in data.models if arm == name and row.model != "linear"]
        symbols = [_SYMBOLS.get(row.model, "square") for row in models]
        if models:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": plain(name),
                    "x": [rounded(row.predicted_peak_bytes / MEBIBYTE) for row in models],
                    "y": [rounded(METRICS[data.metric].score(row.score)) for row in models],
                    "text": [f"<b>{plain(name)}</b>, {row.model}<br>{plain(row.architecture, 120)}" for row in models],
                    "hovertemplate": "%{text}<br>%{y:.3f}, %{x:,.0f} MiB<extra></extra>",
                    "marker": {
                        "color": color,
                        "size": 10,
                        "symbol": symbols,
                    },
                }
            )
    if not traces:
        return None
    y = axis(f"validation {metric_title(data.metric)}")
    return figure(traces, x=axis("predicted peak memory (MiB)"), y=y, height=360, showlegend=True)
