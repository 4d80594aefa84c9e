"""Report an ablation: a table as text, CSV and Markdown, and a plot of the metric over the values of each gene."""

import csv
import io
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.common.files import write_atomically
from nas.common.progress import Reporter
from nas.common.units import format_bytes
from nas.run.comparison.report import spread, svg_plot
from nas.run.progress_lines import metric_title
from nas.run.tables import csv_cell, markdown_table, text_table
from nas.search.paired import PairedDifference, holm
from nas.search.space import Architecture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE = "ablation"
"""The name of the files, without their suffixes; plots have the name of their gene as well."""

_NOTES = (
    "{title}, {genes}. One gene is varied at a time; every variant is trained completely, with {seeds} and the recipe "
    "of the search file. Mean and standard deviation over seeds. Difference: the mean of the paired differences from "
    "the default, and its 95 % interval by Student's t over seeds, each for itself; other samples may give another "
    "difference. *: beyond chance by Holm's procedure over all rows, with an error of at most 5 %. Training memory: "
    "predicted, for weights in use, gradients, optimiser state, activations and inputs."
)
_DEFAULT = "(default)"


@dataclass(frozen=True)
class AblatedRow:
    """One line of the table.

    Args:
        gene: The gene that is varied.
        value: Its value, as text.
        is_default: Whether this is the architecture that the others are compared with.
        architecture: The architecture, as text.
        trainable_parameters: The number of trainable parameters.
        training_bytes: The predicted peak of a training besides the process itself.
        validation: The metrics of each seed; None where there is no training.
        test: The same on test; None if test was not asked for.
        remark: A note for readers of the table; may be empty.
    """

    gene: str
    value: str
    is_default: bool
    architecture: str
    trainable_parameters: int
    training_bytes: int
    validation: tuple[Mapping[str, float] | None, ...]
    test: tuple[Mapping[str, float] | None, ...] | None
    remark: str

    def scores(self, metric: str) -> list[float | None]:
        """Return a metric on validation of each seed."""
        return _scores(metric, self.validation)


def write_report(
    directory: Path, base: Architecture, rows: Sequence[AblatedRow], *, metric: str, seeds: int, reporter: Reporter
) -> None:
    """Show the table, and write it as `ablation.txt`, `.md`, `.csv` (with all metrics), and a plot for each gene.

    Args:
        directory: The directory of the files.
        base: The architecture that genes are varied of.
        rows: The lines of the table.
        metric: The metric that is shown.
        seeds: The number of seeds of each row.
        reporter: The receiver of the table.

    Raises:
        OSError: If a file cannot be written.
    """
    header, cells = _table(rows, metric)
    notes = [f"{row.gene} {row.value}: {row.remark}" for row in rows if row.remark]
    counted = f"{seeds} seeds" if seeds > 1 else "one seed"
    notes.append(_NOTES.format(title=base.title, genes=base.summary(), seeds=counted))
    text = "\n".join([text_table(header, cells), *notes])
    markdown = "\n".join([markdown_table(header, cells), "", *(f"{note}\n" for note in notes)])
    reporter.note("")
    reporter.note(text)
    contents = {
        f"{TABLE}.txt": f"{text}\n".encode(),
        f"{TABLE}.md": markdown.encode(),
        f"{TABLE}.csv": _csv(rows, metric).encode(),
    }
    for gene, group in itertools.groupby(rows, lambda row: row.gene):
        contents[f"{TABLE}_{gene}.svg"] = draw_plot(list(group), metric)
    for name, content in contents.items():
        write_atomically(directory / name, content)
    reporter.note("")
    reporter.note(f"Written: {', '.join(str(directory / name) for name in contents)}")


def differences_from_default(rows: Sequence[AblatedRow], metric: str) -> list[PairedDifference | None]:
    """Return the difference of each row from the default of its gene; None for the default and without a common seed.

    Args:
        rows: The lines of the table.
        metric: The metric.
    """
    defaults = {row.gene: row.scores(metric) for row in rows if row.is_default}
    return [
        None if row.is_default else PairedDifference.of(row.scores(metric), defaults.get(row.gene, [])) for row in rows
    ]


def _scores(metric: str, seeds: Sequence[Mapping[str, float] | None]) -> list[float | None]:
    return [None if metrics is None else metrics.get(metric) for metrics in seeds]


def _table(rows: Sequence[AblatedRow], metric: str) -> tuple[list[str], list[list[str]]]:
    has_test = any(row.test is not None for row in rows)
    differences = differences_from_default(rows, metric)
    varied = [index for index, row in enumerate(rows) if not row.is_default]
    p_values = [None if (entry := differences[index]) is None else entry.p_value for index in varied]
    found = dict(zip(varied, holm(p_values), strict=True))
    title = metric_title(metric)
    header = ["gene", "value", "trainable parameters", "training memory", f"validation {title}", "difference"]
    cells, gene = [], ""
    for index, row in enumerate(rows):
        line = [
            row.gene if row.gene != gene else "",
            f"{row.value} {_DEFAULT}" if row.is_default else row.value,
            f"{row.trainable_parameters:,}",
            format_bytes(row.training_bytes),
            spread(row.scores(metric)),
            "–" if row.is_default else _difference_text(differences[index], is_found=found[index]),
        ]
        cells.append([*line, spread(_scores(metric, row.test or ()))] if has_test else line)
        gene = row.gene
    return [*header, f"test {metric}"] if has_test else header, cells


def _difference_text(difference: PairedDifference | None, *, is_found: bool) -> str:
    """Return `+0.012 (-0.004 to +0.028)`, with `*` where it is beyond chance."""
    if difference is None:
        return "–"
    text = f"{difference.mean:+.3f}"
    if difference.half_width is not None:
        low, high = difference.mean - difference.half_width, difference.mean + difference.half_width
        text += f" ({low:+.3f} to {high:+.3f})"
    return f"{text} *" if is_found else text


def _csv(rows: Sequence[AblatedRow], metric: str) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    known = {name for row in rows for metrics in (*row.validation, *(row.test or ())) for name in metrics or ()}
    metrics = [metric, *sorted(known - {metric})]
    splits = ("validation", "test") if any(row.test is not None for row in rows) else ("validation",)
    seeds = range(max((len(row.validation) for row in rows), default=0))
    writer.writerow(
        [
            *("gene", "value", "is_default", "architecture", "trainable_parameters", "training_bytes"),
            *(f"difference_{name}" for name in ("mean", "low", "high", "p_value", "seeds")),
            *(f"{split}_{name}_seed{seed}" for name in metrics for split in splits for seed in seeds),
            "remark",
        ]
    )
    for row, difference in zip(rows, differences_from_default(rows, metric), strict=True):
        scores = [
            score
            for name in metrics
            for split in splits
            for score in _scores(name, row.validation if split == "validation" else row.test or [None] * len(seeds))
        ]
        facts = (row.gene, row.value, int(row.is_default), row.architecture)
        sizes = (row.trainable_parameters, row.training_bytes)
        writer.writerow(
            [
                *map(csv_cell, facts),
                *("" if value is None else value for value in (*sizes, *_columns(difference), *scores)),
                csv_cell(row.remark),
            ]
        )
    return buffer.getvalue()


def _columns(difference: PairedDifference | None) -> tuple[float | None, ...]:
    """Return the mean of a difference, the ends of its interval, its p-value and its number of seeds."""
    if difference is None:
        return (None,) * 5
    mean, half = difference.mean, difference.half_width
    ends = (None, None) if half is None else (mean - half, mean + half)
    return mean, *ends, difference.p_value, difference.count


def draw_plot(rows: Sequence[AblatedRow], metric: str) -> bytes:
    """Return an SVG plot of the validation metric over the values of one gene.

    Args:
        rows: The lines of the gene.
        metric: The metric that is drawn.
    """

    def draw(figure: "Figure", axes: "Axes") -> None:
        del figure
        for index, row in enumerate(rows):
            scores = [score for score in row.scores(metric) if score is not None]
            if scores:
                color = "C3" if row.is_default else "C0"
                deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
                axes.errorbar(index, statistics.fmean(scores), yerr=deviation, fmt="o", color=color, capsize=3)
                axes.plot([index] * len(scores), scores, ".", color=color, alpha=0.4)
        axes.set_title(f"{rows[0].gene}: mean over seeds, bars show one standard deviation")
        axes.set_xticks(range(len(rows)))
        axes.set_xticklabels([f"{row.value}\n{_DEFAULT}" if row.is_default else row.value for row in rows])
        axes.set_xlim(-0.5, len(rows) - 0.5)
        axes.set_xlabel(rows[0].gene)
        axes.set_ylabel(f"validation {metric_title(metric)}")
        axes.grid(visible=True, axis="y", alpha=0.3)

    return svg_plot((6.0, 3.5), TABLE, draw)
