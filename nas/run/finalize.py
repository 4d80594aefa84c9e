"""Conclude a run: export the best model, the default and the linear classifier, and evaluate each on test once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.common.errors import ExportError
from nas.common.progress import Reporter
from nas.common.sealed_json import read_sealed_json, write_sealed_json
from nas.common.seals import SEALS
from nas.config.schema import Config
from nas.models.model_seals import CONFIG, DESCRIPTION, model_changes
from nas.run.evaluate import digest_of_test, evaluate_exported
from nas.run.export import TrainedWeights, export_result
from nas.run.model_card import describe
from nas.run.model_parts import ModelParts
from nas.run.program_name import command_line
from nas.run.progress_lines import better_model_lines, memory_text, metric_title, training_text
from nas.run.reliability import ReliabilityReport
from nas.run.tables import text_table
from nas.search.space import Architecture
from nas.search.trial import Result, Stage, to_count, to_number
from nas.training.metrics import standard_error

REPORT = "report.json"
BEST = "best"
DEFAULT = "default"
LINEAR = "linear"
ROLES = (BEST, DEFAULT, LINEAR)
"""The exported models of a run, each in the folder of its name."""

RELIABILITY = "reliability.json"

_BEST_NAMES: Mapping[Stage, str] = {
    "one_shot": "best (only screened)",
    "short": "best (only trained briefly)",
    "full": "best",
}
"""The name of the best model in the final report, by the last stage that it has completed."""


class Finalizer:
    """Exports and evaluates the models of a finished search.

    A model whose test metrics are in the report is not evaluated again, unless the test split has changed.

    Args:
        config: The configuration of the search.
        directory: The run directory.
        parts: The parts of the models besides their trained weights.
        cache_directory: The cache, which has the digests of images.
        reporter: The receiver of messages.
    """

    def __init__(
        self,
        config: Config,
        directory: Path,
        *,
        parts: ModelParts,
        cache_directory: Path,
        reporter: Reporter,
    ) -> None:
        self._config = config
        self._directory = directory
        self._parts = parts
        self._cache_directory = cache_directory
        self._reporter = reporter

    def conclude(self, results: Mapping[str, Result | None], reliability: ReliabilityReport) -> None:
        """Export and evaluate the models of all roles, then write and show the final report.

        Args:
            results: The result of each role: the best architecture, of the last stage that any candidate has completed;
                the full training of the family's default; and the linear classifier. None for a model that there is
                not.
            reliability: The reliability report.

        Raises:
            NasError: If a model cannot be exported or the test split cannot be used.
        """
        report = read_report(self._directory)
        test_data = digest_of_test(self._config.data, self._parts.class_names, self._cache_directory)
        for role in ROLES:
            if (result := results[role]) is not None:
                self._export(role, result, report, test_data)
        write_sealed_json(self._directory / RELIABILITY, reliability.as_dict())
        self._show(report, reliability)

    def _export(self, role: str, result: Result, report: dict[str, Any], test_data: str) -> None:
        """Export one model and evaluate it on test, unless that has been done."""
        target, known = self._directory / role, report.get(role, {})
        is_evaluated = (known.get("result"), known.get("test_data")) == (result.as_dict(), test_data)
        if is_evaluated:
            damage = _damage(target)
            if damage is None:
                return
            if target.exists():
                self._reporter.note(f"{target}: is not the model that was exported ({damage}); exporting it again")
        trained = TrainedWeights.of(self._directory, result, self._config.space)
        facts = export_result(
            target, trained, parts=self._parts, objective=self._config.search.objective, data=self._config.data
        )
        if is_evaluated:
            facts |= {key: known[key] for key in ("test", "test_samples")}
        else:
            self._reporter.note(f"{role}: evaluating the exported and reloaded model on the test split")
            metrics, count, _ = evaluate_exported(target, self._config.data, "test")
            facts |= {"test": metrics, "test_samples": count}
        describe(target, facts)
        report[role] = {
            "architecture": result.architecture.as_dict(),
            **facts,
            "result": result.as_dict(),
            "test_data": test_data,
        }
        write_sealed_json(self._directory / REPORT, report)

    def _show(self, report: Mapping[str, Any], reliability: ReliabilityReport) -> None:
        metric, run = self._config.search.objective, self._directory
        title = self._config.space.architecture_class.title
        stage: Stage = report[BEST]["stage"]
        rows = [
            (name, *_row(report[role], metric))
            for name, role in ((_BEST_NAMES[stage], BEST), (f"{title} default", DEFAULT), ("linear", LINEAR))
            if role in report
        ]
        name = metric_title(metric)
        header = ("", "architecture", f"validation {name}", f"test {name}", "parameters", "peak memory")
        predict = command_line("predict", run / BEST, rest='--image FILE --text "..."')
        resume = command_line("resume", run, rest="--budget ...")
        lines = [
            "",
            text_table(header, rows),
            "",
            "How far to trust this result:",
            *(f"- {line}" for line in reliability.lines()),
            "",
            f"Exported model: {run / BEST}{training_text(stage)}",
            f"Use it: {predict}",
            f"All candidates: {run / 'results.csv'}; continue with: {resume}",
            *better_model_lines(stage, run),
        ]
        for line in lines:
            self._reporter.note(line)


def _damage(folder: Path) -> str | None:
    """Return how a model folder differs from the exported one; None if it is whole."""
    missing = [name for name in (CONFIG, DESCRIPTION, SEALS) if not (folder / name).is_file()]
    if missing:
        return f"{', '.join(missing)} missing"
    try:
        return str(model_changes(folder)) or None
    except ExportError as error:
        return str(error)


def read_report(directory: Path) -> dict[str, Any]:
    """Read the final report of a run; empty if it has none yet.

    Args:
        directory: The run directory.

    Raises:
        StudyError: If the file is damaged.
    """
    path = directory / REPORT
    if not path.exists():
        return {}
    return read_sealed_json(
        path,
        _to_report,
        expected="the report of a search",
        remedy="delete it; `resume` then evaluates the best model again",
    )


def _to_report(values: dict[str, Any]) -> dict[str, Any]:
    """Check that a report has an entry with everything for each role."""
    for role, entry in values.items():
        if role not in ROLES:
            raise ValueError(f"{role}: unknown; expected {', '.join(ROLES)}")
        Result.from_dict(entry["result"])
        Architecture.from_dict(entry["architecture"])
        for name, value in (*entry["test"].items(), *entry["validation"].items()):
            to_number(name, value)
        for name in ("test_samples", "trainable_parameters", "predicted_peak_bytes", "measured_peak_bytes"):
            to_count(name, entry[name])
    return values


def _row(entry: Mapping[str, Any], metric: str) -> Sequence[str]:
    value, count = entry["test"][metric], entry["test_samples"]
    # The binomial error holds for a share of samples, not for averages over classes.
    error = f" (standard error with {count} test samples: {standard_error(value, count):.3f})"
    return (
        str(Architecture.from_dict(entry["architecture"])),
        f"{entry['validation'][metric]:.3f}",
        f"{value:.3f}{error if metric == 'accuracy' else ''}",
        f"{entry['trainable_parameters']:,}",
        memory_text(entry["predicted_peak_bytes"], entry["measured_peak_bytes"]),
    )
