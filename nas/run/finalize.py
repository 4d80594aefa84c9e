"""Conclude a run: export the best model, the default and the linear classifier, and evaluate each on test once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.common.errors import ExportError
from nas.common.progress import Reporter
from nas.common.sealed_json import read_sealed_json, write_sealed_json
from nas.common.seals import SEALS
from nas.common.units import format_bytes
from nas.config.schema import Config
from nas.data.features.store import FeatureSplit
from nas.models.model_seals import CONFIG, DESCRIPTION, model_changes
from nas.run.ensemble import Ensemble, EnsembleChoice
from nas.run.evaluate import digest_of_test, evaluate_exported
from nas.run.export import TrainedWeights, export_result
from nas.run.export_ensemble import export_ensemble
from nas.run.model_card import describe
from nas.run.model_parts import ModelParts
from nas.run.program_name import command_line
from nas.run.progress_lines import better_model_lines, memory_text, metric_title, training_text
from nas.run.reliability import ReliabilityReport
from nas.run.roles import BEST, SIMPLE_MODELS
from nas.run.tables import text_table
from nas.run.verdict import verdict
from nas.search.space import Architecture
from nas.search.trial import Result, Stage, to_count, to_number
from nas.training.evaluate import forward_seconds
from nas.training.metrics import standard_error

REPORT = "report.json"
ROLES = (BEST, *(model.role for model in SIMPLE_MODELS))
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
        validation: The validation samples, with which the latency of a model is measured.
        cache_directory: The cache, which has the digests of images.
        reporter: The receiver of messages.
    """

    def __init__(
        self,
        config: Config,
        directory: Path,
        *,
        parts: ModelParts,
        validation: FeatureSplit,
        cache_directory: Path,
        reporter: Reporter,
    ) -> None:
        self._config = config
        self._directory = directory
        self._parts = parts
        self._validation = validation
        self._cache_directory = cache_directory
        self._reporter = reporter

    def conclude(self, results: Mapping[str, Result], reliability: ReliabilityReport, choice: EnsembleChoice) -> None:
        """Export and evaluate the models of all roles, then write and show the final report.

        Args:
            results: The result of each role: the best architecture, of the last stage that any candidate has completed;
                and the simpler models that there are.
            reliability: The reliability report.
            choice: The ensemble of the run, which is the answer in place of the best model as `search.answer` has it.

        Raises:
            NasError: If a model cannot be exported or the test split cannot be used.
        """
        report = read_report(self._directory)
        test_data = digest_of_test(self._config.data, self._parts.class_names, self._cache_directory)
        ensemble = choice.answer(self._config.search.answer)
        for role in ROLES:
            answer = ensemble if role == BEST and ensemble is not None else results.get(role)
            if answer is not None:
                self._export(role, answer, report, test_data)
        write_sealed_json(self._directory / RELIABILITY, reliability.as_dict())
        self._show(report, reliability, results[BEST], choice)

    def _export(self, role: str, answer: Result | Ensemble, report: dict[str, Any], test_data: str) -> None:
        """Export one model and evaluate it on test, unless that has been done."""
        target, known = self._directory / role, report.get(role, {})
        known_by = {**identity(answer), "test_data": test_data}
        is_evaluated = {name: known.get(name) for name in known_by} == known_by
        if is_evaluated:
            damage = _damage(target)
            if damage is None:
                return
            if target.exists():
                self._reporter.note(f"{target}: is not the model that was exported ({damage}); exporting it again")
        facts = self._write(target, answer)
        if is_evaluated:
            facts |= {key: known[key] for key in ("test", "test_samples", "latency_seconds") if key in known}
        else:
            self._reporter.note(f"{role}: evaluating the exported and reloaded model on the test split")
            metrics, count, _ = evaluate_exported(target, self._config.data, "test")
            facts |= {"test": metrics, "test_samples": count, "latency_seconds": self._latency_seconds(answer)}
        describe(target, facts)
        report[role] = {
            "architecture": _results_of(answer)[0].architecture.as_dict(),
            **facts,
            **{name: value for name, value in known_by.items() if value is not None},
        }
        write_sealed_json(self._directory / REPORT, report)

    def _write(self, target: Path, answer: Result | Ensemble) -> dict[str, Any]:
        """Export one model, and return its facts with the size of its weights."""
        config, parts = self._config, self._parts
        if isinstance(answer, Ensemble):
            facts = export_ensemble(target, answer, self._directory, parts=parts, config=config)
        else:
            trained = TrainedWeights.of(self._directory, answer, config.space)
            facts = export_result(target, trained, parts=parts, objective=config.search.objective, data=config.data)
        return facts | {"file_bytes": sum(path.stat().st_size for path in target.glob("*.safetensors"))}

    def _latency_seconds(self, answer: Result | Ensemble) -> float | None:
        """Return the time of a forward pass from the encoder outputs, of all members one after another.

        It is measured now unless the search has done so. None for a model whose inputs the search did not need: the
        linear classifier beside fine-tuned encoders.
        """
        total = 0.0
        for result in _results_of(answer):
            seconds = result.latency_seconds
            if seconds is None:
                model = TrainedWeights.of(self._directory, result, self._config.space).load(self._parts)
                if not self._validation.can_read(model.entry_layers()):
                    return None
                size = min(self._config.search.latency_batch, len(self._validation))
                seconds = forward_seconds(model, self._validation, result.architecture, size)
            total += seconds
        return total

    def _show(
        self, report: Mapping[str, Any], reliability: ReliabilityReport, best: Result, choice: EnsembleChoice
    ) -> None:
        metric, run = self._config.search.objective, self._directory
        title = self._config.space.architecture_class.title
        stage: Stage = report[BEST]["stage"]
        rows = [
            (name, *_row(report[role], metric))
            for name, role in (
                (_BEST_NAMES[stage], BEST),
                *((model.row.format(family=title), model.role) for model in reversed(SIMPLE_MODELS)),
            )
            if role in report
        ]
        is_ensemble = "members" in report[BEST]
        if is_ensemble:
            memory = memory_text(best.predicted_peak_bytes, best.measured_peak_bytes)
            single = (str(best.architecture), f"{best.metrics[metric]:.3f}", "", "", memory, "", "")
            rows[0] = ("ensemble", *rows[0][1:])
            rows.insert(1, ("best single model", *single))
        name = metric_title(metric)
        header = (
            *("", "architecture", f"validation {name}", f"test {name}", "parameters", "peak memory"),
            *(f"latency ({self._config.search.latency_batch})", "file"),
        )
        predict = command_line("predict", run / BEST, rest='--image FILE --text "..."')
        resume = command_line("resume", run, rest="--budget ...")
        lines = [
            "",
            verdict(reliability, run, is_ensemble=is_ensemble),
            "",
            text_table(header, rows),
            "",
            "How far to trust this result:",
            *(f"- {line}" for line in reliability.lines(is_ensemble=is_ensemble)),
            *(f"- {line}" for line in choice.lines(self._config.search.answer, metric)),
            "",
            f"Exported model: {run / BEST}{training_text(stage)}",
            f"Use it: {predict}",
            f"All candidates: {run / 'results.csv'}; continue with: {resume}",
            *better_model_lines(stage, run),
        ]
        for line in lines:
            self._reporter.note(line)


def _results_of(answer: Result | Ensemble) -> list[Result]:
    """Return the result of a single model, or those of the members."""
    return [answer] if isinstance(answer, Result) else [member.result for member in answer.members]


def identity(answer: Result | Ensemble) -> dict[str, Any]:
    """Return what the report has about a model that was exported, and by which it is known again.

    Args:
        answer: The result of a single model, or the ensemble.
    """
    members = answer.member_dicts() if isinstance(answer, Ensemble) else None
    return {"result": _results_of(answer)[0].as_dict(), "members": members}


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
    members, latency, size = (entry.get(name) for name in ("members", "latency_seconds", "file_bytes"))
    return (
        f"{len(members)} models" if members else str(Architecture.from_dict(entry["architecture"])),
        f"{entry['validation'][metric]:.3f}",
        f"{value:.3f}{error if metric == 'accuracy' else ''}",
        f"{entry['trainable_parameters']:,}",
        memory_text(entry["predicted_peak_bytes"], entry["measured_peak_bytes"]),
        "" if latency is None else f"{1000 * latency:.1f} ms",
        "" if size is None else format_bytes(size),
    )
