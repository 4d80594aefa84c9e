"""The end of a run: which models are exported, evaluated on test and shown. Models and their evaluation are faked."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nas.common.progress import LineReporter
from nas.models.fusion.linear.architecture import LinearArchitecture
from nas.models.model_seals import CONFIG, DESCRIPTION, seal_model
from nas.run.ensemble import Ensemble, EnsembleChoice, Member
from nas.run.finalize import Finalizer, read_report
from nas.run.race_report import Margin, RaceReport
from nas.run.reliability import ReliabilityReport, Spread
from nas.search.ensemble import Gain
from nas.search.keys import DefaultKey, LinearKey
from nas.search.selection_bias import ExpectedScore
from nas.search.trial import Result, Stage
from tests.support.factories import ARCHITECTURE, make_result
from tests.support.search_file import make_search_config

LINEAR = make_result(key=LinearKey(), architecture=LinearArchitecture(), stage="full", score=0.7, latency_seconds=0.001)
DEFAULT = make_result(key=DefaultKey(), stage="full", score=0.72, latency_seconds=0.002)


def best(stage: Stage = "full") -> Result:
    return make_result(trial=3, stage=stage, score=0.73, latency_seconds=0.003)


class FakeModels:
    """Writes folders in place of models, and counts what is written and evaluated.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.written: list[str] = []
        self.evaluated: list[str] = []
        monkeypatch.setattr("nas.run.finalize.digest_of_test", lambda *_: "digest")
        monkeypatch.setattr("nas.run.finalize.export_result", lambda target, trained, **_: self.write(target, trained))
        monkeypatch.setattr("nas.run.finalize.export_ensemble", lambda target, *_, **__: self.write(target, None))
        monkeypatch.setattr("nas.run.finalize.evaluate_exported", self.evaluate)
        monkeypatch.setattr("nas.run.finalize.describe", lambda *_: None)

    def write(self, target: Path, trained: Any) -> dict[str, Any]:
        target.mkdir(exist_ok=True)
        result = None if trained is None else trained.result
        name = "ensemble" if result is None else result.key.name
        (target / CONFIG).write_text(json.dumps({"name": name}))
        (target / DESCRIPTION).write_text("name: it\n")
        seal_model(target)
        self.written.append(name)
        score = 0.8 if result is None else result.score
        peaks = {"predicted_peak_bytes": 1, "measured_peak_bytes": 1, "trainable_parameters": 5}
        members: dict[str, Any] = {"members": [1, 2]} if result is None else {}
        return {
            "stage": "full" if result is None else result.stage,
            "validation": {"accuracy": score},
            **peaks,
            **members,
        }

    def evaluate(self, target: Path, *_: object) -> tuple[dict[str, float], int, list[str]]:
        self.evaluated.append(target.name)
        return {"accuracy": 0.6}, 20, []

    def holds(self, role: str) -> str:
        name: str = json.loads((self.directory / role / CONFIG).read_text())["name"]
        return name

    def conclude(
        self, role: str, simple: dict[str, Result], ensemble: Ensemble | None = None, stage: Stage = "full"
    ) -> list[str]:
        """Conclude the run; returns the lines of its report."""
        stream = io.StringIO()
        config = make_search_config()
        parts: Any = SimpleNamespace(class_names=("a", "b"))
        finalizer = Finalizer(
            config,
            self.directory,
            parts=parts,
            validation=None,  # type: ignore[arg-type]
            parameter_count=lambda architecture: 1234,
            cache_directory=self.directory,
            reporter=LineReporter(stream),
        )
        choice = EnsembleChoice(ensemble, "few samples", best(stage), role, simple.get(role))
        finalizer.conclude(simple, reliability(role, simple), choice)
        return stream.getvalue().splitlines()


def reliability(answer: str, simple: dict[str, Result]) -> ReliabilityReport:
    scores = {role: Spread((result.score,)) for role, result in simple.items()}
    margins = {role: Margin(0.01, -0.1, 0.1) for role in simple}
    race = RaceReport(3, 9, 1, answer, margins, None, ExpectedScore(0.7, 0.6, 0.8, 0.0))
    return ReliabilityReport(
        "accuracy", (), Spread((0.73,)), scores, {}, {"one_shot": 1, "short": 1, "full": 1}, answer=answer, race=race
    )


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeModels:
    return FakeModels(tmp_path, monkeypatch)


def first_words(lines: Sequence[str]) -> list[str]:
    """Return the names of the rows of the table in a report."""
    rule = next(place for place, line in enumerate(lines) if line.startswith("---"))
    assert all(len(line) <= 100 for line in lines[rule - 2 : lines.index("", rule)]), "it fits a terminal"
    return [row.split("  ")[0].strip() for row in lines[rule + 1 : lines.index("", rule)]]


def test_simpler_answer_is_exported_and_evaluated_once_and_the_best_stands_in_the_table(models: FakeModels) -> None:
    lines = models.conclude("linear", {"linear": LINEAR, "default": DEFAULT})
    assert (models.holds("best"), models.holds("linear"), models.holds("default")) == ("linear", "linear", "default")
    assert models.written == ["linear", "default"] and models.evaluated == ["best", "default"]
    report = read_report(models.directory)
    assert report["best"]["role"] == "linear" and report["best"]["test"] == report["linear"]["test"]
    assert first_words(lines) == ["answer (linear)", "best", "PMF default"]
    (row,) = (line for line in lines if line.startswith("best "))
    assert f"best: {ARCHITECTURE.summary()} ({ARCHITECTURE})" in lines
    assert "0.730" in row and "1,234" in row and "3.0 ms" in row and "0.600" not in row
    assert f"To export the best architecture instead: python run_search.py export {models.directory} " in "".join(lines)


def test_best_answer_is_exported_beside_the_simpler_models(models: FakeModels) -> None:
    lines = models.conclude("best", {"linear": LINEAR, "default": DEFAULT})
    assert models.holds("best") == "trial_3" and models.evaluated == ["best", "linear", "default"]
    assert first_words(lines) == ["answer (best)", "PMF default", "linear"]
    assert not any("--pick best" in line for line in lines)
    assert read_report(models.directory)["best"]["role"] == "best"


def test_ensemble_is_the_answer_before_any_single_model(models: FakeModels) -> None:
    members = (Member(DEFAULT, 0.6), Member(best(), 0.4))
    lines = models.conclude("linear", {"linear": LINEAR}, Ensemble(members, {"accuracy": 0.8}, Gain(0.05, 0.01)))
    assert models.holds("best") == "ensemble" and read_report(models.directory)["best"]["role"] == "ensemble"
    assert first_words(lines) == ["answer (ensemble)", "best", "linear"]


def test_concluded_run_evaluates_nothing_again_and_follows_another_answer(models: FakeModels) -> None:
    simple = {"linear": LINEAR, "default": DEFAULT}
    models.conclude("linear", simple)
    written, evaluated = list(models.written), list(models.evaluated)
    models.conclude("linear", simple)
    assert (models.written, models.evaluated) == (written, evaluated)
    models.conclude("default", simple)
    assert (models.written, models.evaluated) == (written, evaluated), "its folder is copied"
    assert models.holds("best") == "default" and read_report(models.directory)["best"]["role"] == "default"
    (models.directory / "best" / CONFIG).write_text("{}")
    (models.directory / "default" / CONFIG).write_text("{}")
    models.conclude("default", simple)
    assert models.holds("best") == models.holds("default") == "default", "damaged folders are written again"
    assert models.evaluated == evaluated


def test_search_that_trained_nothing_completely_says_so_although_the_answer_is_solved(models: FakeModels) -> None:
    lines = models.conclude("linear", {"linear": LINEAR}, stage="one_shot")
    assert first_words(lines) == ["answer (linear)", "best, only screened"]
    assert any(line.startswith("For a better model, train candidates completely") for line in lines)
