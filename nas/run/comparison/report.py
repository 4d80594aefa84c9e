"""Report a comparison: a table as text, CSV and Markdown, and a plot of the metric over memory."""

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.common.files import write_atomically
from nas.common.progress import Reporter
from nas.common.units import format_bytes, format_seconds
from nas.run.tables import csv_cell, markdown_table, text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE = "comparison"
"""The name of the files, without their suffixes."""

BASE_TO_NOVEL = "base_to_novel"
"""The protocol in which models are trained on half of the classes, and tested on each half among its own classes."""

_NOTES = (
    "Validation and test: mean and standard deviation over {seeds}. The learning rate was chosen on validation with "
    "the first seed, and so was the searched architecture, which makes validation optimistic; test played no part in "
    "any choice. Training memory: predicted, for weights in use, gradients, optimiser state, activations and inputs. "
    "Worker memory: the measured peak of the process without frozen weights, including freed memory that it kept. "
    "Time: of one training, while as many others ran as fit into memory."
)

_PROTOCOL_NOTE = (
    "Protocol base_to_novel: training, validation and all choices see the base classes only, the first half of the "
    "classes sorted by name, with the middle one. Base: test samples of these, among them. Novel: test samples of the "
    "others, among those, with their texts in place of those of the base classes. Harmonic mean: of the two of each "
    "seed."
)

_MARKERS = "osD^v<>P*X"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: The name of the entry.
        title: The name of the entry for people.
        is_searched_family: Whether the entry belongs to the family that was searched.
        architecture: The architecture that was trained; empty for a family without genes.
        learning_rate: The learning rate chosen on validation; None if no training succeeded.
        trainable_parameters: The number of trainable parameters.
        training_bytes: The predicted peak of a training besides the process itself: weights in use, gradients,
            optimiser state, activations, inputs. Includes frozen weights, which the workers of a machine share.
        measured_peak_bytes: The highest measured private memory of a worker over seeds, without frozen weights.
        validation: The metrics of each seed; None where a training failed.
        test: The same on test; with the protocol `BASE_TO_NOVEL` on its base classes.
        seconds: The mean time of one training and its evaluation on validation.
        remark: A note for readers of the table; may be empty.
        novel: The same on the novel classes of test; None without that protocol.
    """

    name: str
    title: str
    is_searched_family: bool
    architecture: str
    learning_rate: float | None
    trainable_parameters: int
    training_bytes: int
    measured_peak_bytes: int | None
    validation: tuple[Mapping[str, float] | None, ...]
    test: tuple[Mapping[str, float] | None, ...]
    seconds: float | None
    remark: str
    novel: tuple[Mapping[str, float] | None, ...] | None = None

    def shown_on_test(self, metric: str) -> list[float | None]:
        """Return the score of each seed that a plot shows: on test, or the harmonic mean of base and novel classes."""
        scores = _scores(metric, self.test)
        return scores if self.novel is None else harmonic_means(scores, _scores(metric, self.novel))


def write_report(
    directory: Path, rows: Sequence[Row], *, metric: str, seeds: int, reporter: Reporter, note: str | None = None
) -> None:
    """Show the table, and write it as `comparison.txt`, `.md`, `.csv` (with all metrics), and a plot `.svg`.

    Args:
        directory: The directory of the files.
        rows: The lines of the table.
        metric: The metric that is shown.
        seeds: The number of seeds of each entry.
        reporter: The receiver of the table.
        note: A further note below the table.

    Raises:
        OSError: If a file cannot be written.
    """
    has_novel = any(row.novel is not None for row in rows)
    on_test = (f"base {metric}", f"novel {metric}", "harmonic mean") if has_novel else (f"test {metric}",)
    header = (
        "",
        "architecture",
        "learning rate",
        "trainable parameters",
        "training memory",
        "worker memory",
        f"validation {metric}",
        *on_test,
        "time",
    )
    cells = [_cells(row, metric) for row in rows]
    notes = [f"{row.title}: {row.remark}" for row in rows if row.remark]
    notes += [_PROTOCOL_NOTE] * has_novel + ([] if note is None else [note])
    notes.append(_NOTES.format(seeds=f"{seeds} seeds" if seeds > 1 else "one seed"))
    text = "\n".join([text_table(header, cells), *notes])
    plot = f"![{_shown_name(rows)} {metric} over training memory]({TABLE}.svg)"
    markdown = "\n".join([markdown_table(header, cells), "", plot, "", *(f"{note}\n" for note in notes)])
    reporter.note("")
    reporter.note(text)
    contents = {
        "txt": f"{text}\n".encode(),
        "md": markdown.encode(),
        "csv": _csv(rows, metric).encode(),
        "svg": draw_plot(rows, metric),
    }
    for suffix, content in contents.items():
        write_atomically(directory / f"{TABLE}.{suffix}", content)
    reporter.note("")
    reporter.note(f"Written: {', '.join(str(directory / f'{TABLE}.{suffix}') for suffix in contents)}")


def spread(scores: Sequence[float | None]) -> str:
    """Return the mean and the standard deviation over seeds, and the number of seeds where some failed.

    Args:
        scores: The score of each seed; None where its training failed.
    """
    values = [score for score in scores if score is not None]
    if not values:
        return "–"
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    count = f" ({len(values)} of {len(scores)} seeds)" if len(values) < len(scores) else ""
    return f"{statistics.fmean(values):.3f}{deviation}{count}"


def harmonic_means(firsts: Sequence[float | None], seconds: Sequence[float | None]) -> list[float | None]:
    """Return the harmonic mean of two scores of each seed; None where one is missing, 0 where both are 0.

    Args:
        firsts: The first scores, from 0.
        seconds: The second ones.
    """
    return [
        None if first is None or second is None else 2 * first * second / (first + second) if first + second else 0.0
        for first, second in zip(firsts, seconds, strict=True)
    ]


def _scores(metric: str, seeds: Sequence[Mapping[str, float] | None]) -> list[float | None]:
    """Return one metric of each seed."""
    return [None if metrics is None else metrics.get(metric) for metrics in seeds]


def _cells(row: Row, metric: str) -> tuple[str, ...]:
    return (
        row.title,
        row.architecture or "–",
        "–" if row.learning_rate is None else f"{row.learning_rate:g}",
        f"{row.trainable_parameters:,}",
        format_bytes(row.training_bytes),
        "–" if row.measured_peak_bytes is None else format_bytes(row.measured_peak_bytes),
        spread(_scores(metric, row.validation)),
        spread(_scores(metric, row.test)),
        *(() if row.novel is None else (spread(_scores(metric, row.novel)), spread(row.shown_on_test(metric)))),
        "–" if row.seconds is None else format_seconds(row.seconds),
    )


def _csv(rows: Sequence[Row], metric: str) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    count = max((len(row.test) for row in rows), default=0)
    seeds = range(count)
    known = {name for row in rows for metrics in (*row.validation, *row.test) for name in metrics or ()}
    splits = ("validation", "base", "novel") if any(row.novel is not None for row in rows) else ("validation", "test")
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
            *(f"{split}_{name}_seed{seed}" for name in metrics for split in splits for seed in seeds),
            *(f"harmonic_mean_{metric}_seed{seed}" for seed in (seeds if "novel" in splits else ())),
            "remark",
        ]
    )
    for row in rows:
        padding = [None] * (count - len(row.test))
        scores = [
            score
            for name in metrics
            for split in (row.validation, row.test, *(() if row.novel is None else (row.novel,)))
            for score in (*_scores(name, split), *padding)
        ]
        scores += [] if row.novel is None else [*row.shown_on_test(metric), *padding]
        facts = (row.learning_rate, row.trainable_parameters, row.training_bytes, row.measured_peak_bytes, row.seconds)
        writer.writerow(
            [
                row.name,
                row.architecture,
                *("" if value is None else value for value in (*facts, *scores)),
                csv_cell(row.remark),
            ]
        )
    return buffer.getvalue()


def draw_plot(rows: Sequence[Row], metric: str) -> bytes:
    """Return an SVG plot of the test metric over training memory, with a legend that names the models.

    Args:
        rows: The lines of the table.
        metric: The metric that is drawn.
    """

    def draw(figure: "Figure", axes: "Axes") -> None:
        for index, row in enumerate(rows):
            scores = [score for score in row.shown_on_test(metric) if score is not None]
            if scores:
                axes.errorbar(
                    row.training_bytes / 2**20,
                    statistics.fmean(scores),
                    yerr=statistics.stdev(scores) if len(scores) > 1 else 0.0,
                    fmt=_MARKERS[index % len(_MARKERS)],
                    color="C3" if row.is_searched_family else f"C{index % 3}",
                    markerfacecolor="none" if index % 2 and not row.is_searched_family else None,
                    capsize=3,
                    label=row.title,
                )
        axes.set_title("Models compared: mean over seeds, bars show one standard deviation")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(0.12)
        axes.set_xlabel("training memory, MiB")
        axes.set_ylabel(f"{_shown_name(rows)} {metric}")
        axes.grid(visible=True, which="both", alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside right upper")

    return svg_plot((8.0, 4.5), TABLE, draw)


def _shown_name(rows: Sequence[Row]) -> str:
    return "harmonic mean of base and novel" if any(row.novel is not None for row in rows) else "test"


def svg_plot(size: tuple[float, float], name: str, draw: Callable[["Figure", "Axes"], None]) -> bytes:
    """Return a plot as SVG, the same for the same content.

    Args:
        size: The width and height in inches.
        name: The name from which the identifiers in the file are derived.
        draw: Function that draws into a figure with one plot.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure, figure.add_subplot())
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
