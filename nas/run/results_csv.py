"""Write the results of a study as CSV, and in a canonical form that equal searches share."""

import csv
import io
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nas.common.boundary import read_bytes
from nas.common.errors import StudyError
from nas.common.files import write_atomically
from nas.config.search_schema import SearchConfig
from nas.execution.worker_setup import trained_weights_path
from nas.run.progress_lines import metric_title
from nas.run.tables import csv_cell
from nas.search.keys import CandidateKey
from nas.search.metric_registry import METRICS, metric_names
from nas.search.space import Architecture
from nas.search.trial import STAGES, Result
from nas.storage.contents import StudyContents
from nas.storage.records import Rejection

_COLUMNS_BEFORE_GENES = ("trial", "stage", "round", "status")
_SCORE_COLUMNS = ("ranked_by", "score", "best")
"""What the candidates of the stage are ranked by, its value, and a mark for the best one."""

_COLUMNS_AFTER_METRICS = (
    "training_steps",
    "supernet_steps",
    "seed",
    "micro_batches",
    "precision",
    "seconds",
    "trainable_parameters",
    "predicted_peak_bytes",
    "measured_peak_bytes",
    "kept_freed_memory",
    "latency_seconds",
    "reason",
)
_UNKNOWN_COLUMNS = 7
"""What candidates without a score lack besides it and the metrics: steps to parameters."""
_MAX_BYTES = 1024**3
_MEASURED = ("seconds", "latency_seconds", "predicted_peak_bytes", "measured_peak_bytes", "kept_freed_memory")
"""Values that differ between equal searches: measurements, predictions (they contain a measured constant of the
process), and whether there was room to keep freed memory (it depends on the number of workers)."""


def _genes(architecture: Architecture) -> list[str]:
    return list(architecture.texts().values())


def write_results(
    path: Path,
    study: StudyContents,
    architecture_class: type[Architecture],
    search: SearchConfig,
    parameter_count: Callable[[Architecture], int] | None = None,
) -> None:
    """Write one CSV row for each candidate and stage, including those without a score.

    Args:
        path: The file, which is replaced as a whole.
        study: The study of the run.
        architecture_class: The class of its architectures, whose genes are columns.
        search: The section of the search file, which determines what each stage is ranked by.
        parameter_count: Function that returns the number of trainable parameters; without it the column is empty.

    Raises:
        OSError: If the file cannot be written; the old one is then untouched.
    """
    rounds, metrics = study.rounds, _metric_columns(search)
    rows: list[tuple[object, ...]] = [
        (
            *_COLUMNS_BEFORE_GENES,
            *architecture_class.gene_names(),
            *_SCORE_COLUMNS,
            *metrics,
            *_COLUMNS_AFTER_METRICS,
        )
    ]
    for stage in STAGES:
        results = study.results(stage)
        best = max((result.score for result in results), default=0.0)
        for result in results:
            metric = METRICS[search.score_name(stage)]
            mark = "yes" if result.score == best else ""
            score = (metric_title(metric.name), metric.score(result.score), mark)
            size = "" if parameter_count is None else parameter_count(result.architecture)
            values = tuple(result.metrics.get(name, "") for name in metrics)
            rows.append(_finished_row(result, rounds.get(result.trial, ""), (*score, *values), size))
    unknown = [""] * (len(_SCORE_COLUMNS) + len(metrics) + _UNKNOWN_COLUMNS)
    rows.extend(_rejected_row(entry, rounds.get(entry.trial, ""), unknown) for entry in study.rejections)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([csv_cell(cell) for cell in row] for row in rows)
    write_atomically(path, buffer.getvalue().encode())


def finished_rows(path: Path) -> set[tuple[str, str]]:
    """Return the number and the stage of every finished row of a file that `write_results` has written.

    Args:
        path: The file; what of it cannot be read counts as empty, because the study is what counts.
    """
    return {(row.get("trial") or "", row.get("stage") or "") for row in _rows(path) if row.get("status") == "finished"}


def read_parameters(path: Path) -> dict[int, int]:
    """Return the number of trainable parameters of every candidate that a file of `write_results` has it for.

    Args:
        path: The file; what of it cannot be read counts as empty.
    """
    found = ((row.get("trial") or "", row.get("trainable_parameters") or "") for row in _rows(path))
    return {int(trial): int(count) for trial, count in found if trial.isdecimal() and count.isdecimal()}


def _rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file, as far as it can be read."""
    if not path.exists():
        return []
    content = read_bytes(path, expected="the results of a search", error=StudyError, max_bytes=_MAX_BYTES)
    text = content.replace(b"\0", b"").decode(errors="replace")
    try:
        return list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error:
        return []


def keep_lost_results(path: Path, study: StudyContents) -> str | None:
    """Rename a file with results that the study does not have, and move the weights of these results to a new folder.

    Otherwise, new candidates with the same numbers would overwrite them.

    Args:
        path: The file, in the run directory.
        study: The study of the run.

    Returns:
        The line about it; None if the study has all results.

    Raises:
        OSError: If something cannot be renamed.
    """
    stored = {(str(result.trial), stage) for stage in STAGES for result in study.results(stage)}
    lost = finished_rows(path) - stored
    if not lost:
        return None
    number = next(number for number in itertools.count(1) if not _numbered(path, number).exists())
    kept = {_numbered(path, number).name: True}
    for trial, stage in sorted(lost):
        if trial.isdecimal() and stage in STAGES:
            weights = trained_weights_path(path.parent, CandidateKey(int(trial)), stage)
            if weights.exists():
                folder = _numbered(weights.parent, number)
                folder.mkdir(exist_ok=True)
                weights.rename(folder / weights.name)
                kept[f"{folder.name}/"] = True
    path.rename(_numbered(path, number))  # last, so that a start that is killed meanwhile repeats the rest
    return f"{len(lost)} result(s) of {path} are not in the study; they were kept as {' and '.join(kept)}"


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def _metric_columns(search: SearchConfig) -> tuple[str, ...]:
    """Return the metrics of classifiers, or those of retrieval, whichever the objective is one of."""
    names = (*metric_names(), *metric_names(role="proxy"))
    is_retrieval = METRICS[search.objective].applies_to("pairs")
    return tuple(name for name in names if METRICS[name].applies_to("pairs") == is_retrieval)


def _finished_row(
    result: Result, round_index: int | str, score: tuple[object, ...], parameters: int | str
) -> tuple[object, ...]:
    return (
        result.trial,
        result.stage,
        round_index,
        "finished",
        *_genes(result.architecture),
        *score,
        result.step_count,
        result.supernet_steps,
        result.seed,
        result.micro_batches,
        result.precision,
        round(result.seconds, 3),
        parameters,
        result.predicted_peak_bytes,
        result.measured_peak_bytes,
        result.kept_freed_memory,
        result.latency_seconds,  # None is written as an empty field
        "",
    )


def _rejected_row(rejection: Rejection, round_index: int | str, unknown: Sequence[str]) -> tuple[object, ...]:
    return (
        rejection.trial,
        rejection.stage,
        round_index,
        rejection.status,
        *_genes(rejection.architecture),
        *unknown,
        rejection.predicted_peak_bytes,
        rejection.measured_peak_bytes,
        "",
        "",
        rejection.reason,
    )


def canonical_results(study: StudyContents) -> str:
    """Return all results of a study without measurements, so that equal searches give equal texts.

    Args:
        study: The study.

    Returns:
        One line of JSON for each candidate and stage, by stage and number, with floats in their exact `repr`. Times,
        peaks (predicted ones contain a measured constant) and reasons (they quote peaks) are left out.
    """
    lines: list[tuple[int, int, dict[str, Any]]] = []
    for index, stage in enumerate(STAGES):
        for result in study.results(stage):
            values = {key: value for key, value in result.as_dict().items() if key not in _MEASURED}
            lines.append((index, result.trial, values | {"status": "finished"}))
    for rejection in study.rejections:
        values = {
            "trial": rejection.trial,
            "stage": rejection.stage,
            "status": rejection.status,
            "architecture": rejection.architecture.as_dict(),
        }
        lines.append((STAGES.index(rejection.stage), rejection.trial, values))
    lines.sort(key=lambda line: line[:2])
    rounds = study.rounds
    return "".join(
        json.dumps(values | {"round": rounds.get(trial)}, sort_keys=True) + "\n" for _, trial, values in lines
    )
