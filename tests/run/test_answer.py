"""Which single model is the answer of a search, what rules a simpler one out, and that `export` and kills agree."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.cli import main
from nas.common.sealed_json import write_sealed_json
from nas.models.fusion.linear.architecture import LinearArchitecture
from nas.run.answer import excluded_models, highest
from nas.run.ensemble import ENSEMBLE, read_choice, write_choice
from nas.run.executors import ExecutionOptions
from nas.run.finalize import read_report
from nas.run.reruns import read_simple_result, write_simple_result
from nas.run.roles import BILINEAR, DEFAULT, LINEAR
from nas.search.objectives import Constraint
from nas.search.trial import Result
from tests.run.conftest import FinishedRun
from tests.support.costs import WidthCosts
from tests.support.factories import make_result
from tests.support.runs import Killed, results_of, resume_search


def test_highest_score_wins_and_of_equal_ones_the_first() -> None:
    assert highest({"linear": 0.5, "default": 0.7, "best": 0.6}) == "default"
    assert highest({"linear": 0.5, "default": 0.7, "best": 0.7}) == "default"


@pytest.mark.parametrize(
    ("constraint", "given", "is_excluded"),
    [
        (Constraint("trainable_parameters", 8), {}, False),
        (Constraint("trainable_parameters", 7), {}, True),
        (Constraint("peak_memory", 100), {}, False),
        (Constraint("peak_memory", 99), {}, True),
        (Constraint("latency", 1.0), {"latency_seconds": 0.5}, False),
        (Constraint("latency", 0.4), {"latency_seconds": 0.5}, True),
        (Constraint("latency", 1.0), {}, True),
        (Constraint("accuracy", 0.5), {}, False),
        (Constraint("accuracy", 0.6), {}, True),
    ],
    ids=str,
)
def test_simpler_model_that_is_not_known_to_meet_a_constraint_is_excluded(
    constraint: Constraint, given: dict[str, Any], is_excluded: bool
) -> None:
    simple = {"default": make_result(stage="full", **given)}
    expected = {"default": str(constraint)} if is_excluded else {}
    assert excluded_models(simple, [Constraint("accuracy", 0.1), constraint], WidthCosts()) == expected


def test_cost_of_genes_that_a_simpler_model_lacks_excludes_it() -> None:
    linear = {"linear": make_result(architecture=LinearArchitecture(), stage="full")}
    bound = Constraint("trainable_parameters", 8)  # the width of mappings, for this model of costs
    assert excluded_models(linear, [bound], WidthCosts()) == {"linear": str(bound)}


def exported(run: Path, *words: str) -> tuple[object, int]:
    """Export a model of a run; returns its key and its seed."""
    folder = run.parent / "exported"
    assert main(["export", str(run), "--output", str(folder), *words]) == 0
    described = yaml.safe_load((folder / "architecture.yaml").read_text())
    return described["trial"], described["seed"]


def scored(result: Result, accuracy: float) -> Result:
    return replace(result, score=accuracy, metrics={**result.metrics, "accuracy": accuracy})


def test_export_gives_the_model_that_the_run_was_concluded_with(copy: Path) -> None:
    choice, linear, default = read_choice(copy), read_simple_result(copy, LINEAR), read_simple_result(copy, DEFAULT)
    assert choice.best is not None and linear is not None and default is not None
    for role, simple in (("linear", linear), ("default", default), ("best", None)):
        write_choice(copy, replace(choice, role=role, simple=simple))
        key, seed = yaml.safe_load(json.dumps(choice.best.as_dict()["trial"])), choice.best.seed
        answer = (key, seed) if simple is None else (role, simple.seed)
        assert exported(copy) == exported(copy, "--pick", "answer") == exported(copy, "--answer", "single") == answer
        assert exported(copy, "--pick", "best") == (key, seed), "the best architecture, whatever the answer"
        assert exported(copy, "--pick", "linear") == ("linear", linear.seed)


def test_export_before_the_conclusion_takes_the_highest_metric(copy: Path) -> None:
    (copy / ENSEMBLE).unlink()
    linear, bilinear, default = (read_simple_result(copy, role) for role in (LINEAR, BILINEAR, DEFAULT))
    assert linear is not None and bilinear is not None and default is not None
    best = max(result.score for result in results_of(copy)["full"])
    for accuracies, answer in (
        ((best, best, best), "linear"),
        ((0.0, best, best), "bilinear"),
        ((0.0, 0.0, best), "default"),
        ((0.0, 0.0, 0.0), None),
    ):
        for result, accuracy in zip((linear, bilinear, default), accuracies, strict=True):
            write_simple_result(copy, scored(result, accuracy))
        key, _ = exported(copy)
        assert key == answer or (answer is None and isinstance(key, int))


def test_stored_choice_of_an_earlier_version_answers_with_its_best_and_an_unknown_role_is_damage(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = read_choice(copy)
    assert choice.best is not None
    values = {"ensemble": None, "reason": choice.reason, "single": choice.best.as_dict()}
    write_sealed_json(copy / ENSEMBLE, values)
    assert read_choice(copy).single == choice.best and exported(copy)[1] == choice.best.seed
    for wrong in ({"role": "winner"}, {"role": "linear"}):
        write_sealed_json(copy / ENSEMBLE, values | wrong)
        assert main(["export", str(copy), "--output", str(copy / "model")]) == 2
        assert "ensemble.json: is damaged" in capsys.readouterr().err


def test_run_that_is_killed_while_it_is_concluded_has_one_answer(
    copy: Path, finished: FinishedRun, options: ExecutionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_report(finished.directory)["best"]
    for name in ("best", "linear"):
        shutil.rmtree(copy / name)
    for name in ("report.json", ENSEMBLE):
        (copy / name).unlink()

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("nas.run.finalize.evaluate_exported", killed)
        with pytest.raises(Killed):
            resume_search(copy, options)
    key, _ = exported(copy)
    assert key == expected["trial"]
    resume_search(copy, options)
    report = read_report(copy)["best"]
    assert (report["role"], report["result"]) == (expected["role"], expected["result"])
    assert yaml.safe_load((copy / "best" / "architecture.yaml").read_text())["trial"] == key
