"""Whole searches without training: what a deterministic one promises, and what every one does."""

import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.common.errors import TrainingError
from nas.config.load import config_as_dict
from nas.config.schema import Config
from nas.search.strategies.registry import STRATEGIES
from nas.search.trial import Failure, Job
from nas.storage.study import Study
from tests.support.search_loop import Killed, SimulatedExecutor, config_with, peak_bytes, search


def deterministic(**changes: object) -> Config:
    return config_with(**{"deterministic": True, "budget__trials": 14, **changes})


def undisturbed(config: Config, budget_bytes: int = 1000) -> str:
    with tempfile.TemporaryDirectory() as directory:
        return search(Path(directory), config, SimulatedExecutor([1], random.Random(0)), budget_bytes)


def interrupted(config: Config, directory: Path, chance: random.Random, budget_bytes: int = 1000) -> str:
    """A search whose driver is killed again and again, and goes on each time with other workers."""
    while True:
        ends = iter(range(chance.randint(0, 6), -1, -1))

        def kill(ends: object = ends) -> None:
            if next(ends) == 0:  # type: ignore[call-overload]
                raise Killed

        slots = [chance.randint(1, 4) for _ in range(chance.randint(1, 2))]
        executor = SimulatedExecutor(slots, chance, on_end=kill if chance.random() < 0.9 else lambda: None)
        try:
            return search(directory, config, executor, budget_bytes)
        except Killed:
            continue


FREE: dict[str, object] = {
    "space__num_layers": 3,
    "space__query_prompts": {"choices": [1, 2], "per": "layer_and_direction"},
    "space__query_context_prompts": {"choices": [0, 2], "per": "layer"},
    "space__mapping_width": {"choices": [4, 8], "per": "direction"},
    "search__objective": ["accuracy", "trainable_parameters", "peak_memory"],
}


@pytest.mark.parametrize(
    ("changes", "budget_bytes"), [({}, 40), (FREE, 80)], ids=["one objective", "free genes, three objectives"]
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_deterministic_search_is_the_same_for_any_workers_kills_and_order(
    strategy: str, changes: dict[str, object], budget_bytes: int
) -> None:
    config = deterministic(search__strategy=strategy, **changes)
    expected = undisturbed(config, budget_bytes)
    assert expected.count("infeasible")

    @settings(max_examples=2 if strategy == "gp" else 8, deadline=None)  # which takes its time to propose
    @given(st.integers(0, 10**6))
    def same(seed: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            assert interrupted(config, Path(directory), random.Random(seed), budget_bytes) == expected

    same()


def test_a_lost_device_and_killed_workers_change_nothing_in_a_deterministic_search(tmp_path: Path) -> None:
    config = deterministic()
    ends = Counter[str]()

    def fate(job: Job, grant: int) -> Failure | None:
        ends["all"] += 1
        if ends["all"] == 6:
            executor.lose("device 1")
        if ends["all"] % 3 == 0:
            return Failure(job, "killed_externally", "killed", "its worker was killed from outside")
        return None

    executor = SimulatedExecutor([2, 2], random.Random(5), fate=fate)
    assert search(tmp_path, config, executor) == undisturbed(config)


def test_a_larger_budget_goes_on_as_if_it_had_been_given_at_once_up_to_the_last_promotions(tmp_path: Path) -> None:
    small, large = deterministic(budget__trials=6), deterministic()
    search(tmp_path, small, SimulatedExecutor([2], random.Random(0)))
    resumed = search(tmp_path, large, SimulatedExecutor([3], random.Random(0)))
    scored = [line for line in undisturbed(large).splitlines() if "one_shot" in line]
    assert [line for line in resumed.splitlines() if "one_shot" in line] == scored and len(scored) >= 14


@pytest.mark.parametrize("seed", range(5))
def test_who_fits_only_a_larger_budget_is_scored_once_however_often_the_search_is_killed(
    tmp_path: Path, seed: int
) -> None:
    config = config_with(budget__trials=30)
    too_large = [architecture.values() for architecture in config.space if peak_bytes(architecture) > 40][:4]
    config = config_with(budget__trials=30, search__initial_architectures=too_large)
    small = config_with(budget__trials=6, search__initial_architectures=too_large)
    search(tmp_path, small, SimulatedExecutor([1], random.Random(0)), budget_bytes=40)
    with Study(tmp_path, config.space, name="run", config=config_as_dict(config)) as study:
        assert any(entry.status == "infeasible" for entry in study.rejections)
    interrupted(config, tmp_path, random.Random(seed))
    with Study(tmp_path, config.space, name="run", config=config_as_dict(config)) as study:
        scored = [result.architecture for result in study.results("one_shot")]
    assert len(set(scored)) == len(scored) == 30


@pytest.mark.parametrize("is_deterministic", [False, True])
def test_every_trial_is_accounted_for(tmp_path: Path, is_deterministic: bool) -> None:
    config = config_with(deterministic=is_deterministic, budget__trials=14)
    search(tmp_path, config, SimulatedExecutor([2, 1], random.Random(3)))
    with Study(tmp_path, config.space, name="run", config=config_as_dict(config)) as study:
        assert (study.count("one_shot"), study.count("short"), study.count("full")) == (14, 7, 2)
        assert study.running == {}


def test_running_jobs_never_pass_the_budget_of_their_device(tmp_path: Path) -> None:
    executor = SimulatedExecutor([4, 4], random.Random(3))
    search(tmp_path, config_with(budget__trials=20), executor, budget_bytes=120)
    assert 60 < executor.most_granted <= 120


@pytest.mark.parametrize("seed", range(6))
def test_nor_do_they_with_room_to_keep_what_they_free_and_devices_that_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("nas.execution.scheduler.bytes_with_fragmentation", lambda peak: round(1.6 * peak))
    wide = Counter[bool]()

    class Notes(SimulatedExecutor):
        def submit(self, job: Job, device: str, grant_bytes: int) -> None:
            assert grant_bytes in (job.reserved_bytes, round(1.6 * job.reserved_bytes))
            wide[grant_bytes > job.reserved_bytes] += 1
            super().submit(job, device, grant_bytes)

    def lose() -> None:
        if sum(wide.values()) == 12 and len(executor.devices) == 2:
            executor.lose("device 0")

    executor = Notes([4, 2], random.Random(seed), on_end=lose)
    search(tmp_path, config_with(budget__trials=30, search__eval_batch=1), executor, budget_bytes=110)
    assert 60 < executor.most_granted <= 110
    assert wide[True] and wide[False]


def test_a_candidate_that_runs_out_of_memory_is_tried_once_more_alone_and_then_infeasible(tmp_path: Path) -> None:
    config, tries = config_with(budget__trials=8), list[tuple[int, int]]()

    def fate(job: Job, grant: int) -> Failure | None:
        if any(peak_bytes(member.architecture) > 40 for member in job.members):
            tries.append((job.trial, grant))
            return Failure(job, "memory", "out of memory", "its worker held too much", 500)
        return None

    search(tmp_path, config, SimulatedExecutor([2], random.Random(3), fate=fate), budget_bytes=300)
    with Study(tmp_path, config.space, name="run") as study:
        infeasible = {entry.trial for entry in study.rejections if entry.status == "infeasible"}
        assert infeasible and study.count("one_shot") == 8  # they cost no trial
        for trial in infeasible:
            assert [grant for number, grant in tries if number == trial][-1] == 300


def test_a_candidate_that_crashes_its_worker_three_times_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    config, crashes = config_with(budget__trials=8, search__eval_batch=1), Counter[int]()

    def fate(job: Job, grant: int) -> Failure | None:
        if job.trial == 3:
            crashes[job.trial] += 1
            return Failure(job, "crash", "Fatal Python error", "its worker crashed")
        return None

    search(tmp_path, config, SimulatedExecutor([2], random.Random(3), fate=fate))
    with Study(tmp_path, config.space, name="run") as study:
        assert [(entry.trial, entry.status, entry.reason) for entry in study.rejections] == [
            (3, "failed", "its worker crashed")
        ]
        assert crashes == {3: 3} and study.count("one_shot") == 7  # it is a trial of the budget


def test_deaths_from_outside_never_count(tmp_path: Path) -> None:
    config, deaths = config_with(budget__trials=8), Counter[int]()

    def fate(job: Job, grant: int) -> Failure | None:
        deaths[job.trial] += 1
        return Failure(job, "killed_externally", "killed", "killed") if deaths[job.trial] <= 5 else None

    search(tmp_path, config, SimulatedExecutor([2], random.Random(3), fate=fate))
    with Study(tmp_path, config.space, name="run") as study:
        assert study.rejections == [] and study.count("one_shot") == 8


def test_one_cause_for_all_stops_the_search_and_blames_no_candidate(tmp_path: Path) -> None:
    config = config_with(budget__trials=8, search__eval_batch=1)

    def fate(job: Job, grant: int) -> Failure | None:
        return Failure(job, "error", "TrainingError", "TrainingError: the loss is nan")

    with pytest.raises(
        TrainingError, match="3 consecutive candidates failed with the same cause: TrainingError: the loss"
    ):
        search(tmp_path, config, SimulatedExecutor([2], random.Random(3), fate=fate))
    with Study(tmp_path, config.space, name="run") as study:
        assert study.rejections == [] and len(study.running) >= 3
    search(tmp_path, config, SimulatedExecutor([2], random.Random(3)))
    with Study(tmp_path, config.space, name="run") as study:
        assert study.rejections == [] and study.count("one_shot") == 8
