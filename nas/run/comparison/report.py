"""What a comparison came to: a table as text, CSV and Markdown, and a plot of the metric over memory."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.common.files import write_atomically
from nas.common.progress import Reporter
from nas.common.units import format_bytes, format_seconds
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.tables import text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

TABLE = "comparison"
"""Name of the files, without what they end in."""

_EXPLAINED = (
    "Mean and standard deviation over {seeds}. Validation has chosen the learning rate, by the first of them, and the "
    "searched architecture, so it says a little too much; test took no part in anything. Training memory: predicted, "
    "of weights in use, gradients, optimiser state, activations and inputs. A worker held: all of its process but "
    "frozen weights, and freed memory that it kept where there was room. A training: wall-clock, beside as many others "
    "as fit into memory."
)


_PLACES = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Where the name of a point may be, right and up of it, in the order in which they are tried."""


@dataclass(frozen=True)
class Row:
    """One line.

    Args:
        name: Of the entry.
        title: For people.
        architecture: What was trained; empty where there is nothing to be chosen.
        learning_rate: Chosen on validation; None if nothing was trained.
        trainable_parameters: Their number.
        training_bytes: Predicted peak of a training without the process: weights in use, gradients, optimiser state,
            activations, inputs. Frozen weights, which the workers of a machine share, are in it.
        measured_peak_bytes: Private memory of the worker at its peak, with its process and without frozen weights; of
            the seeds the highest.
        validation: Metrics of every seed; None where a training failed.
        test: The same on test.
        seconds: Of one training and its evaluation on validation, on average, beside as many others as fit into memory.
        remark: What is to be known of it, or nothing.
    """

    name: str
    title: str
    architecture: str
    learning_rate: float | None
    trainable_parameters: int
    training_bytes: int
    measured_peak_bytes: int | None
    validation: tuple[Mapping[str, float] | None, ...]
    test: tuple[Mapping[str, float] | None, ...]
    seconds: float | None
    remark: str


def write_report(directory: Path, rows: Sequence[Row], *, metric: str, seeds: int, reporter: Reporter) -> None:
    """Show the table, and write it as `comparison.txt`, `.md` and `.csv` (with all metrics), and `comparison.svg`.

    Raises:
        OSError: If a file cannot be written.
    """
    header = (
        "",
        "architecture",
        "learning rate",
        "trainable parameters",
        "training memory",
        "a worker held",
        f"validation {metric}",
        f"test {metric}",
        "a training",
    )
    cells = [_cells(row, metric) for row in rows]
    remarks = [f"{row.title}: {row.remark}" for row in rows if row.remark]
    explained = _EXPLAINED.format(seeds=f"{seeds} seeds" if seeds > 1 else "one seed")
    text = "\n".join([text_table(header, cells), *remarks, explained])
    reporter.note("")
    reporter.note(text)
    write_atomically(directory / f"{TABLE}.txt", f"{text}\n".encode())
    write_atomically(directory / f"{TABLE}.md", _markdown(header, cells, [*remarks, explained]).encode())
    write_atomically(directory / f"{TABLE}.csv", _csv(rows, metric).encode())
    write_atomically(directory / f"{TABLE}.svg", _plot(rows, metric))
    reporter.note("")
    reporter.note(f"also as {', '.join(str(directory / f'{TABLE}.{kind}') for kind in ('txt', 'md', 'csv', 'svg'))}")


def spread(scores: Sequence[float | None]) -> str:
    """Mean, and the standard deviation over seeds where there are several; of how many, where some failed."""
    values = [score for score in scores if score is not None]
    if not values:
        return "–"
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    count = f" ({len(values)} of {len(scores)} seeds)" if len(values) < len(scores) else ""
    return f"{statistics.fmean(values):.4f}{deviation}{count}"


def _of(metric: str, seeds: Sequence[Mapping[str, float] | None]) -> list[float | None]:
    """One metric of every seed."""
    return [None if metrics is None else metrics.get(metric) for metrics in seeds]


def _cells(row: Row, metric: str) -> tuple[str, ...]:
    return (
        row.title,
        row.architecture or "–",
        "–" if row.learning_rate is None else f"{row.learning_rate:g}",
        f"{row.trainable_parameters:,}",
        format_bytes(row.training_bytes),
        "–" if row.measured_peak_bytes is None else format_bytes(row.measured_peak_bytes),
        spread(_of(metric, row.validation)),
        spread(_of(metric, row.test)),
        "–" if row.seconds is None else format_seconds(row.seconds),
    )


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([*lines, "", *(f"{remark}\n" for remark in remarks)])


def _csv(rows: Sequence[Row], metric: str) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    count = max((len(row.test) for row in rows), default=0)
    seeds = range(count)
    known = {name for row in rows for metrics in (*row.validation, *row.test) for name in metrics or ()}
    metrics = [metric, *sorted(known - {metric})]
    writer.writerow(
        [
            "name",
            "architecture",
            "learning_rate",
            "trainable_parameters",
            "training_bytes",
            "measured_peak_bytes",
            "seconds",
            *(f"{split}_{name}_seed{seed}" for name in metrics for split in ("validation", "test") for seed in seeds),
            "remark",
        ]
    )
    for row in rows:
        padding = [None] * (count - len(row.test))
        scores = [
            score for name in metrics for split in (row.validation, row.test) for score in (*_of(name, split), *padding)
        ]
        facts = (row.learning_rate, row.trainable_parameters, row.training_bytes, row.measured_peak_bytes, row.seconds)
        writer.writerow(
            [
                row.name,
                row.architecture,
                *("" if value is None else value for value in (*facts, *scores)),
                row.remark,
            ]
        )
    return buffer.getvalue()


def _plot(rows: Sequence[Row], metric: str) -> bytes:
    """The metric on test over training memory, as SVG."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "comparison", "font.size": 9}):
        figure = Figure(figsize=(7.0, 4.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        points = []
        for row in rows:
            if scores := [score for score in _of(metric, row.test) if score is not None]:
                error = statistics.stdev(scores) if len(scores) > 1 else 0.0
                x, y = row.training_bytes / 2**20, statistics.fmean(scores)
                color = "C1" if row.name.startswith(PMFArchitecture.family) else "C0"
                axes.errorbar(x, y, yerr=error, fmt="o", capsize=3, color=color)
                points.append((row.title, x, y, error))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(0.12)
        axes.set_xlabel("training memory, MiB")
        axes.set_ylabel(f"test {metric}")
        axes.grid(visible=True, which="both", alpha=0.3)
        figure.draw_without_rendering()
        write_names(axes, points)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def write_names(axes: "Axes", points: Sequence[tuple[str, float, float, float]]) -> "list[Annotation]":
    """Write each name beside its point, where it covers neither another name nor a point, if there is such a place.

    Args:
        axes: With all points, and laid out: what a name covers is known only then.
        points: Name, place on both axes, and length of the error bar to either side.

    Returns:
        The names, in the order of the points.
    """
    from matplotlib.transforms import Bbox

    inside, radius = axes.get_window_extent(), 4.0
    taken = [
        Bbox(axes.transData.transform([(x, y - error), (x, y + error)])).padded(radius) for _, x, y, error in points
    ]
    names = []
    for name, x, y, _ in points:
        for place in _PLACES:
            right, up = place
            written = axes.annotate(
                name,
                (x, y),
                xytext=(7 * right, 5 * up),
                textcoords="offset points",
                horizontalalignment=("center", "left", "right")[right],
                verticalalignment=("center", "bottom", "top")[up],
            )
            box = written.get_window_extent()
            fits = box.count_overlaps(taken) == 0 and all(inside.contains(*corner) for corner in box.corners())
            if fits or place == _PLACES[-1]:
                break
            written.remove()
        taken.append(box)
        names.append(written)
    return names
