import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.config.search_schema import SearchConfig
from nas.models.fusion.pmf.architecture import GENES, PMFArchitecture
from nas.run.results_csv import canonical_results, write_results
from nas.search.space import Architecture, SearchSpace
from nas.search.trial import Result, Stage
from nas.storage.study import Study
from tests.support.factories import make_job, make_result

SPACE = SearchSpace(PMFArchitecture, dict.fromkeys(GENES, tuple(range(1, 8))))
FIRST, SECOND, THIRD = (PMFArchitecture(1, number, 1, 1, 1) for number in (1, 2, 3))


def search(**changes: Any) -> SearchConfig:
    values = {"strategy": "random", "objective": "accuracy", "round_size": 4, "promotion_fraction": 0.5}
    return SearchConfig.model_validate(
        {**values, "proxy_metric": "objective", "short_training_steps": 1, "finalists": 1, **changes}
    )


def result(trial: int, architecture: Architecture, stage: Stage = "one_shot", **changes: Any) -> Result:
    values = make_result(
        trial=trial,
        architecture=architecture,
        stage=stage,
        score=1 / 3,
        metrics={"accuracy": 1 / 3, "macro_f1": 0.25},
        step_count=5,
        seed=11,
        seconds=2.0625,
    )
    return replace(values, **changes)


def fill(directory: Path, order: tuple[int, ...] = (0, 2), **measured: Any) -> Study:
    study = Study(directory, SPACE, name="run")
    architectures = {0: FIRST, 2: THIRD}
    study.start(FIRST, 4)
    study.reject_infeasible(SECOND, f"predicted {measured}", measured.get("predicted_peak_bytes", 10**9))
    study.start(THIRD, 5)
    for trial in order:
        study.finish(result(trial, architectures[trial], **measured))
    study.finish(result(0, FIRST, "short", **measured))
    job = make_job(trial=2, architecture=THIRD, stage="short", step_count=5, seed=11, predicted_peak_bytes=100)
    study.reject(job, status="infeasible", reason="ran out, twice", measured_peak_bytes=measured.get("seconds"))
    return study


def test_scores_are_shown_as_what_they_are_and_the_best_is_marked(tmp_path: Path) -> None:
    with Study(tmp_path, SPACE, name="run") as study:
        for architecture, loss in ((FIRST, 0.75), (SECOND, 0.5), (THIRD, 0.625)):
            trial = study.start(architecture)
            study.finish(result(trial, architecture, score=-loss, metrics={"accuracy": 0.5, "cross_entropy": loss}))
        write_results(tmp_path / "results.csv", study, PMFArchitecture, search(proxy_metric="cross_entropy"))
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["score"], row["cross_entropy"], row["best"]) for row in rows] == [
        ("0.75", "0.75", ""),
        ("0.5", "0.5", "yes"),
        ("0.625", "0.625", ""),
    ]
    assert {row["ranked_by"] for row in rows} == {"cross_entropy (lower is better)"}


def test_every_candidate_and_stage_is_a_row_of_all_known_values(tmp_path: Path) -> None:
    with fill(tmp_path) as study:
        write_results(tmp_path / "results.csv", study, PMFArchitecture, search())
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    known = [
        {key: value for key, value in row.items() if value and key not in PMFArchitecture.gene_names()} for row in rows
    ]
    scored = {
        "status": "finished",
        "ranked_by": "accuracy",
        "score": repr(1 / 3),
        "best": "yes",
        "accuracy": repr(1 / 3),
        "macro_f1": "0.25",
        "training_steps": "5",
        "supernet_steps": "7",
        "seed": "11",
        "precision": "float32",
        "seconds": "2.062",
        "predicted_peak_bytes": "100",
        "measured_peak_bytes": "90",
        "kept_freed_memory": "False",
    }
    infeasible = {"status": "infeasible", "predicted_peak_bytes": "1000000000", "reason": "predicted {}"}
    tried = {"status": "infeasible", "predicted_peak_bytes": "100", "reason": "ran out, twice"}
    assert known == [
        {"trial": "0", "stage": "one_shot", "round": "4", **scored, "micro_batches": "1"},
        {"trial": "2", "stage": "one_shot", "round": "5", **scored, "micro_batches": "1"},
        {"trial": "0", "stage": "short", "round": "4", **scored, "micro_batches": "1"},
        {"trial": "1", "stage": "one_shot", **infeasible},
        {"trial": "2", "stage": "short", "round": "5", **tried},
    ]
    assert [row["query_prompts"] for row in rows] == ["1", "3", "1", "2", "3"]
    assert [row["text_readout"] for row in rows] == ["pooled"] * 5


def test_canonical_results_of_equal_searches_do_not_depend_on_measurements(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    slow = {"seconds": 99.0, "measured_peak_bytes": 12345, "predicted_peak_bytes": 678, "kept_freed_memory": True}
    with fill(tmp_path / "a") as first, fill(tmp_path / "b", order=(2, 0), **slow) as second:
        assert canonical_results(first) == canonical_results(second)
        expected = canonical_results(first)
    with Study(tmp_path / "a", SPACE, name="run") as again:
        assert canonical_results(again) == expected


def test_canonical_results_list_every_trial_of_every_stage_in_order(tmp_path: Path) -> None:
    with fill(tmp_path) as study:
        lines = [json.loads(line) for line in canonical_results(study).splitlines()]
    assert [(line["stage"], line["trial"], line["status"], line["round"]) for line in lines] == [
        ("one_shot", 0, "finished", 4),
        ("one_shot", 1, "infeasible", None),
        ("one_shot", 2, "finished", 5),
        ("short", 0, "finished", 4),
        ("short", 2, "infeasible", 5),
    ]
    assert lines[0]["score"] == 1 / 3 and lines[0]["architecture"] == FIRST.as_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"score": 0.1 + 0.2},
        {"seed": 12},
        {"step_count": 6},
        {"supernet_steps": 8},
        {"metrics": {"accuracy": 1 / 3 + 1e-16, "macro_f1": 0.25}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_canonical_results_show_any_difference(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        fill(tmp_path / "a", score=0.3 if "score" in change else 1 / 3) as first,
        fill(tmp_path / "b", **change) as second,
    ):
        assert canonical_results(first) != canonical_results(second)
