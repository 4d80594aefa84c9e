"""Conclude a run: export its answer and the simpler models, and evaluate each on test once."""

import time
from collections.abc import Callable, Mapping, Sequence
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
from nas.run.announcement import longer
from nas.run.distilled import DistilledReport
from nas.run.ensemble import Ensemble, EnsembleChoice
from nas.run.evaluate import digest_of_test, evaluate_exported
from nas.run.export import TrainedWeights, export_result
from nas.run.export_ensemble import export_ensemble
from nas.run.forecast import EVALUATION
from nas.run.latency import latency_seconds
from nas.run.model_card import describe
from nas.run.model_folder import copy_model_folder
from nas.run.model_parts import ModelParts
from nas.run.program_name import command_line
from nas.run.progress_lines import better_model_lines, metric_title, training_text
from nas.run.reliability import ReliabilityReport
from nas.run.roles import BEST, DISTILLED, SIMPLE_MODELS, simple_titles
from nas.run.tables import text_table
from nas.run.verdict import verdict
from nas.search.space import Architecture
from nas.search.trial import Result, Stage, to_count, to_number
from nas.training.metrics import standard_error

REPORT = "report.json"
ROLES = (BEST, *(model.role for model in SIMPLE_MODELS), DISTILLED)
"""The exported models of a run, each in the folder of its name: the answer in that of the best."""

ENSEMBLE_ROLE = "ensemble"

_OTHER_ANSWERS = {ENSEMBLE_ROLE: "ensemble", DISTILLED: "distilled model"}
"""The answers that the race has not found."""

RELIABILITY = "reliability.json"

_BEST_NAMES: Mapping[Stage, str] = {
    "one_shot": "best, only screened",
    "short": "best, only trained briefly",
    "full": "best",
}
"""The name of the best architecture in the final report, by the last stage that it has completed."""


class Finalizer:
    """Exports and evaluates the models of a finished search.

    A model whose test metrics are in the report is not evaluated again, unless the test split has changed. One that has
    two roles, such as a linear classifier that is the answer, is exported and evaluated once, and copied.

    Args:
        config: The configuration of the search.
        directory: The run directory.
        parts: The parts of the models besides their trained weights.
        validation: The validation samples, with which the latency of a model is measured.
        parameter_count: Function that returns the number of trainable parameters of an architecture.
        cache_directory: The cache, which has the digests of images.
        reporter: The receiver of messages.
        evaluation_seconds: The estimated time of exporting and evaluating one model.
    """

    def __init__(
        self,
        config: Config,
        directory: Path,
        *,
        parts: ModelParts,
        validation: FeatureSplit,
        parameter_count: Callable[[Architecture], int],
        cache_directory: Path,
        reporter: Reporter,
        evaluation_seconds: float = 0.0,
    ) -> None:
        self._config = config
        self._directory = directory
        self._parts = parts
        self._validation = validation
        self._parameter_count = parameter_count
        self._cache_directory = cache_directory
        self._reporter = reporter
        self._evaluation_seconds = evaluation_seconds

    def conclude(
        self,
        simple: Mapping[str, Result],
        reliability: ReliabilityReport,
        choice: EnsembleChoice,
        distilled: DistilledReport | None = None,
    ) -> None:
        """Export and evaluate the answer and the other models, then write and show the final report.

        Args:
            simple: The simpler models that there are, by their roles.
            reliability: The reliability report.
            choice: The ensemble of the run, its best architecture, and which of them or of the simpler models is the
                answer.
            distilled: The distilled model; None if there is none.

        Raises:
            NasError: If a model cannot be exported or the test split cannot be used.
        """
        report = read_report(self._directory)
        test_data = digest_of_test(self._config.data, self._parts.class_names, self._cache_directory)
        ensemble = choice.answer(self._config.search.answer)
        assert choice.single is not None, "a search is concluded with a result"
        models: dict[str, Result | Ensemble] = {BEST: ensemble or choice.single, **simple}
        if distilled is not None:
            models[DISTILLED] = distilled.result
        elif report.pop(DISTILLED, None) is not None:  # that of an ensemble of an earlier session
            write_sealed_json(self._directory / REPORT, report)
        answer_role = choice.role if ensemble is None else ENSEMBLE_ROLE
        started = time.monotonic()
        for index, (role, model) in enumerate(models.items()):
            each = (time.monotonic() - started) / index if index else self._evaluation_seconds
            left = (len(models) - index) * each
            self._reporter.progress(EVALUATION, index, len(models), left_seconds=left or None)
            entry = self._exported(role, model, report, test_data)
            if role == BEST:
                entry = {**entry, "role": answer_role}
            if report.get(role) != entry:
                report[role] = entry
                write_sealed_json(self._directory / REPORT, report)
        self._reporter.progress(EVALUATION, len(models), len(models))
        other = _OTHER_ANSWERS.get(answer_role, "")
        lines = [verdict(reliability, other=other), *reliability.lines(other=other)]
        write_sealed_json(self._directory / RELIABILITY, {**reliability.as_dict(), "verdict": lines})
        further = choice.lines(self._config.search.answer, self._config.search.objective)
        if distilled is not None:
            further = [*further, distilled.line(self._config.search.objective, _titles(reliability.title))]
        assert choice.best is not None, "a search is concluded with a result"
        self._show(report, choice.best, lines, further)

    def _exported(
        self, role: str, model: Result | Ensemble, report: Mapping[str, dict[str, Any]], test_data: str
    ) -> dict[str, Any]:
        """Export one model and evaluate it on test, unless that has been done, and return its entry of the report."""
        target = self._directory / role
        known_by = {**identity(model), "test_data": test_data}
        known = {
            other: {name: value for name, value in entry.items() if name != "role"}
            for other, entry in report.items()
            if {name: entry.get(name) for name in known_by} == known_by
        }
        if role in known:
            damage = _damage(target)
            if damage is None:
                return known[role]
            if target.exists():
                self._reporter.note(f"{target}: is not the model that was exported ({damage}); exporting it again")
        twin = next((other for other in known if other != role and _damage(self._directory / other) is None), None)
        if twin is not None:
            copy_model_folder(self._directory / twin, target, links=True)
            return known[twin]
        facts = self._write(target, model)
        if known:
            entry = next(iter(known.values()))
            facts |= {key: entry[key] for key in ("test", "test_samples", "latency_seconds") if key in entry}
        else:
            self._reporter.note(f"{role}: evaluating the exported and reloaded model on the test split")
            metrics, count, *_ = evaluate_exported(target, self._config.data, "test")
            facts |= {"test": metrics, "test_samples": count, "latency_seconds": self._latency_seconds(model)}
        describe(target, facts)
        return {
            "architecture": _results_of(model)[0].architecture.as_dict(),
            **facts,
            **{name: value for name, value in known_by.items() if value is not None},
        }

    def _write(self, target: Path, answer: Result | Ensemble) -> dict[str, Any]:
        """Export one model, and return its facts with the size of its weights."""
        config, parts, run = self._config, self._parts, self._directory
        others = [run / role for role in ROLES if run / role != target]
        if isinstance(answer, Ensemble):
            facts = export_ensemble(target, answer, run, parts=parts, config=config, shares_with=others)
        else:
            trained, metric = TrainedWeights.of(run, answer, config.space), config.search.objective
            facts = export_result(target, trained, parts=parts, objective=metric, data=config.data, shares_with=others)
        return facts | {"file_bytes": sum(path.stat().st_size for path in target.glob("*.safetensors"))}

    def _latency_seconds(self, model: Result | Ensemble) -> float | None:
        """Return the time of a forward pass from the encoder outputs, of all members one after another, if known."""
        directory, config, parts = self._directory, self._config, self._parts
        found = [latency_seconds(entry, directory, config, parts, self._validation) for entry in _results_of(model)]
        known = [seconds for seconds in found if seconds is not None]
        return sum(known) if len(known) == len(found) else None

    def _show(self, report: Mapping[str, Any], best: Result, trust: Sequence[str], further: Sequence[str]) -> None:
        """Show the verdict, the table of the models, how far to trust it, and what can be done next.

        Args:
            report: The content of the final report.
            best: The best architecture.
            trust: The verdict, then the lines about how far to trust it.
            further: Lines about the ensemble and the distilled model.
        """
        metric, run = self._config.search.objective, self._directory
        answer = report[BEST]
        name = metric_title(metric)
        error = "\n(standard error)" if metric == "accuracy" else ""
        batch = self._config.search.latency_batch
        header = (
            *("", f"validation\n{name}", f"test {name}{error}", "parameters", "training\nmemory"),
            *(f"latency\n({batch} sample{'s' if batch > 1 else ''})", "file"),
        )
        rows = self._rows(report, best)
        predict = command_line("predict", run / BEST, rest='--image FILE --text "..."')
        evaluate = command_line("evaluate", run / BEST, rest="--data TABLE")
        resume = longer(run, self._config.budget)
        export = command_line("export", run, rest="--output DIR --pick best")
        lines = [
            "",
            trust[0],
            "",
            text_table(header, [(title, *cells) for title, _, *cells in rows]),
            "",
            *(f"{title}: {model}" for title, model, *_ in rows),
            "",
            "How far to trust this result:",
            *(f"- {line}" for line in (*trust[1:], *further)),
            "",
            f"Exported model: {run / BEST}{training_text(answer['stage'])}",
            f"Use it: {predict}",
            f"Evaluate it on other data: {evaluate}",
            *([] if answer["role"] == BEST else [f"To export the best architecture instead: {export}"]),
            f"All candidates: {run / 'results.csv'}; search longer: {resume}",
            *better_model_lines(best.stage, run),
        ]
        for line in lines:
            self._reporter.note(line)

    def _rows(self, report: Mapping[str, Any], best: Result) -> list[Sequence[str]]:
        """Return the answer, the best architecture, and the simpler models without the answer: names, models, cells.

        A best architecture that is not the answer is not evaluated on test.
        """
        metric, answer = self._config.search.objective, report[BEST]["role"]
        family = self._config.space.architecture_class.title
        names = {model.role: model.row.format(family=family) for model in reversed(SIMPLE_MODELS)}
        names = {DISTILLED: DISTILLED, **names}
        title = {ENSEMBLE_ROLE: ENSEMBLE_ROLE, BEST: _BEST_NAMES[best.stage], **names}[answer]
        rows: list[Sequence[str]] = [(f"answer ({title})", *_row(report[BEST], metric))]
        if answer != BEST:
            cost = format_bytes(best.predicted_peak_bytes)
            latency = "" if best.latency_seconds is None else f"{1000 * best.latency_seconds:.1f} ms"
            values = (f"{best.metrics[metric]:.3f}", "", f"{self._parameter_count(best.architecture):,}", cost, latency)
            rows.append((_BEST_NAMES[best.stage], _described(best.architecture), *values, ""))
        others = [role for role in names if role in report and role != answer]
        return [*rows, *((names[role], *_row(report[role], metric)) for role in others)]


def _titles(family: str) -> dict[str, str]:
    """Return the names of single models in sentences, by their role."""
    return {BEST: "best architecture", **simple_titles(family)}


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
        if role == BEST and entry.get("role", BEST) not in (*ROLES, ENSEMBLE_ROLE):
            raise ValueError(f"role: unknown; expected {', '.join(ROLES)} or {ENSEMBLE_ROLE}")
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
    error = f" ({standard_error(value, count):.3f})"
    members, latency, size = (entry.get(name) for name in ("members", "latency_seconds", "file_bytes"))
    return (
        f"{len(members)} models" if members else _described(Architecture.from_dict(entry["architecture"])),
        f"{entry['validation'][metric]:.3f}",
        f"{value:.3f}{error if metric == 'accuracy' else ''}",
        f"{entry['trainable_parameters']:,}",
        format_bytes(entry["predicted_peak_bytes"]),
        "" if latency is None else f"{1000 * latency:.1f} ms",
        "" if size is None else format_bytes(size),
    )


def _described(architecture: Architecture) -> str:
    return f"{architecture.summary()} ({architecture})"
