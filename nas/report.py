"""What a run came to, as tables for people and files for programs."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from nas.files import write_atomically
from nas.results import STAGES
from nas.space import GENES
from nas.study import Study

_COLUMNS = (
    "trial",
    "stage",
    "status",
    *GENES,
    "score",
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "training_steps",
    "supernet_steps",
    "seed",
    "seconds",
    "predicted_peak_bytes",
    "measured_peak_bytes",
    "reason",
)


def write_results(path: Path, study: Study) -> None:
    """Write one row a candidate and stage, the ones without a score too, as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for stage in STAGES:
        for result in study.results(stage):
            writer.writerow(
                {
                    "trial": result.trial,
                    "stage": stage,
                    "status": "finished",
                    **result.architecture.as_dict(),
                    **result.metrics,
                    "score": result.score,
                    "training_steps": result.step_count,
                    "supernet_steps": result.supernet_steps,
                    "seed": result.seed,
                    "seconds": round(result.seconds, 3),
                    "predicted_peak_bytes": result.predicted_peak_bytes,
                    "measured_peak_bytes": result.measured_peak_bytes,
                }
            )
    for rejection in study.rejections:
        writer.writerow(
            {
                "trial": rejection.trial,
                "stage": rejection.stage,
                "status": rejection.status,
                **rejection.architecture.as_dict(),
                "reason": rejection.reason,
            }
        )
    write_atomically(path, buffer.getvalue().encode())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, aligned by spaces."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in [lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
