"""The distilled model: its trainings on a simulated executor, and whether it is the answer."""

import io
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from nas.common.interrupt import Interruption
from nas.common.progress import LineReporter
from nas.data.features.store import FeatureStore
from nas.run.distilled import DistilledReport, report_distilled
from nas.run.ensemble import Ensemble, Member
from nas.run.phases.context import SearchClock
from nas.run.phases.distillation import DistillationPhase, Distilled, student_of
from nas.run.phases.race import RaceEnd
from nas.run.time_budget import Deadlines, TimeAccount
from nas.search.distillation import SEEDS, teacher_digest
from nas.search.ensemble import Gain
from nas.search.keys import CandidateKey, DistilledKey, LinearKey, RerunKey, TeacherKey
from nas.search.racing import Race, SeedScores, scores_of_samples
from nas.search.trial import Failure, Job, Result
from nas.storage.study import Study
from tests.support.factories import make_result
from tests.support.search_loop import FULL_STEPS, SimulatedExecutor, build_context, config_with

LINEAR = make_result(key=LinearKey(), stage="full")
FIRST = make_result(key=RerunKey(CandidateKey(3), 1), stage="full", seconds=2.0)
SECOND = make_result(trial=5, stage="full")


def ensemble_of(*results: Result) -> Ensemble:
    return Ensemble(tuple(Member(result, 1 / len(results)) for result in results), {}, Gain(0.0, 0.0))


ENSEMBLE = ensemble_of(LINEAR, FIRST, SECOND)


def scores_about(quality: float, seeds: int, first: int = 0) -> SeedScores:
    """Return the scores of predictions that are right on about a part of 400 samples, the easy ones."""
    difficulty = np.random.default_rng(0).random(400)
    noise = [np.random.default_rng(first + seed + 1).normal(0, 0.05, 400) for seed in range(seeds)]
    return scores_of_samples((difficulty + np.stack(noise) < quality).astype(np.float64))


def distil(
    directory: Path,
    executor: SimulatedExecutor,
    *,
    ensemble: Ensemble = ENSEMBLE,
    train_samples: int = 100,
    seconds_left: float = math.inf,
) -> tuple[Distilled | None, str]:
    """Run the phase, or resume it; returns the distilled model and the output."""
    config, output = config_with(search__distill=True), io.StringIO()
    store = SimpleNamespace(splits={"train": range(train_samples)}, class_names=["a", "b", "c"])
    with Study(directory, config.space, name="run", config=config.as_dict()) as study:
        context = build_context(directory, config, study, executor, 10_000, LineReporter(output))
        deadlines = replace(Deadlines.of_fractions(config.budget), total_seconds=seconds_left)
        clock = SearchClock(TimeAccount(directory / "spent.json"), deadlines, Interruption())
        phase = DistillationPhase(
            directory,
            cast(FeatureStore, store),
            ensemble,
            full_steps=FULL_STEPS,
            read_scores=lambda result: scores_about(0.7, 1, first=result.seed % 1000),
        )
        return phase.run(replace(context, clock=clock)), output.getvalue()


def test_ensemble_is_computed_before_its_student_is_trained_with_several_seeds(tmp_path: Path) -> None:
    jobs: list[Job] = []

    def note(job: Job, grant: int) -> None:
        jobs.append(job)

    digest = teacher_digest(ENSEMBLE.member_dicts())
    found, _ = distil(tmp_path, SimulatedExecutor([2], random.Random(0), fate=note))
    assert found is not None
    assert jobs[0].key == TeacherKey(digest) and jobs[0].step_count == 0
    assert [(member.key, weight) for member, weight in jobs[0].taught_by] == [
        (result.key, 1 / 3) for result in (LINEAR, FIRST, SECOND)
    ]
    assert jobs[0].inputs == tuple(f"full/{result.key.name}.safetensors" for result in (LINEAR, FIRST, SECOND))
    assert {job.key for job in jobs[1:]} == {DistilledKey(digest, number) for number in range(SEEDS)}
    assert {job.architecture for job in jobs[1:]} == {FIRST.architecture}, "that of the first member that is trained"
    assert {job.inputs for job in jobs[1:]} == {(f"teacher/teacher_{digest}.safetensors",)}
    assert len({job.seed for job in jobs[1:]}) == SEEDS == len(found.trainings) == len(found.scores)
    # The targets of 100 samples and three classes are held besides what the training needs.
    assert all(job.predicted_peak_bytes > 2 * 4 * 300 for job in jobs)


def test_finished_trainings_are_not_repeated_and_another_ensemble_is_distilled_again(tmp_path: Path) -> None:
    first, _ = distil(tmp_path, SimulatedExecutor([2], random.Random(0)))

    def refuse(job: Job, grant: int) -> Failure:
        raise AssertionError(f"{job.key} is trained again")

    again, output = distil(tmp_path, SimulatedExecutor([2], random.Random(0), fate=refuse))
    assert first is not None and again is not None and again.trainings == first.trainings
    assert "Phase: distillation" not in output
    other, _ = distil(tmp_path, SimulatedExecutor([2], random.Random(0)), ensemble=ensemble_of(FIRST, SECOND))
    assert other is not None
    assert {result.key for result in other.trainings}.isdisjoint(result.key for result in first.trainings)


@pytest.mark.parametrize("failing", [TeacherKey, DistilledKey])
def test_failure_leaves_no_distilled_model_and_ends_the_phase(tmp_path: Path, failing: type) -> None:
    def fate(job: Job, grant: int) -> Failure | None:
        return Failure(job, "error", "ValueError", "ValueError: no") if isinstance(job.key, failing) else None

    assert distil(tmp_path, SimulatedExecutor([2], random.Random(0), fate=fate))[0] is None


def test_job_that_lost_its_worker_is_repeated(tmp_path: Path) -> None:
    lost: list[Job] = []

    def fate(job: Job, grant: int) -> Failure | None:
        if job.key in [entry.key for entry in lost]:
            return None
        lost.append(job)
        return Failure(job, "killed_externally", "killed", "it was killed")

    found, _ = distil(tmp_path, SimulatedExecutor([2], random.Random(0), fate=fate))
    assert found is not None and len(found.trainings) == SEEDS and len(lost) == SEEDS + 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ensemble": ensemble_of(LINEAR, LINEAR)}, "no member of the ensemble is trained"),
        ({"train_samples": 10**8}, "the probabilities of all training samples take more than 64.00 MiB"),
        ({"seconds_left": 1.0}, "a training takes 2s, and 1s are left"),
    ],
)
def test_distillation_is_left_out_with_the_reason(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    found, output = distil(tmp_path, SimulatedExecutor([1], random.Random(0)), **changes)
    assert found is None and f"Left out: distillation: {reason}\n" in output


def test_student_is_the_first_member_that_is_trained() -> None:
    assert student_of(ENSEMBLE) == FIRST and student_of(ensemble_of(SECOND, FIRST)) == SECOND
    assert student_of(ensemble_of(LINEAR, LINEAR)) is None


def compared(distilled: float, best: float, rival: str = "best", seeds: int = 3, excluded: str = "") -> DistilledReport:
    """Compare a distilled model with the best architecture, or a default that is as good, by their accuracies."""
    field: dict[Any, SeedScores] = {
        CandidateKey(3): scores_about(best, seeds),
        CandidateKey(0): scores_about(best, seeds, first=10),
    }
    standing = Race[Any](3).standing(field, is_over=True)
    end = RaceEnd(field, standing, CandidateKey(3), {"default": CandidateKey(0)})
    trainings: Sequence[Result] = [make_result(trial=place, stage="full") for place in range(seeds)]
    found = Distilled(trainings, scores_about(distilled, seeds, first=20))
    return report_distilled(found, end, rival, excluded=excluded)


@pytest.mark.parametrize(
    ("distilled", "rival", "is_answer"),
    [
        (0.85, "best", True),
        (0.71, "best", True),
        (0.69, "best", False),
        (0.85, "default", True),
        (0.71, "default", False),
    ],
)
def test_distilled_model_is_the_answer_where_it_is_at_least_as_good(
    distilled: float, rival: str, is_answer: bool
) -> None:
    found = compared(distilled, 0.7, rival)
    assert found.is_answer == is_answer
    assert found.margin.difference == pytest.approx(distilled - 0.7, abs=0.02)
    assert found.margin.low < found.margin.difference < found.margin.high


def test_nothing_is_known_about_one_seed_each_and_a_violated_constraint_excludes() -> None:
    single = compared(0.9, 0.7, seeds=1)
    assert not single.is_answer and single.margin.low == -math.inf
    titles = {"best": "best architecture"}
    assert single.line("accuracy", titles).endswith(" against the best architecture")
    assert "mean of 1 seed," in single.line("accuracy", titles)
    refused = compared(0.9, 0.7, excluded="peak_memory <= 1GiB")
    assert not refused.is_answer and refused.line("accuracy", titles).endswith("; it does not meet peak_memory <= 1GiB")
    assert compared(0.9, 0.7).line("accuracy", titles).endswith("; it is the best single model")
