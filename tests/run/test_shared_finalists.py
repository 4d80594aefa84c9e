"""Full trainings that several accelerators share, in a search without training."""

import io
import random
from pathlib import Path
from typing import Any, cast

import pytest

from nas.config.schema import Config
from nas.run.feasibility import Feasibility, Fit
from nas.run.phases.jobs import JobFactory
from nas.search.keys import CandidateKey, RerunKey, SpeedKey, TeacherKey
from nas.search.recipe_tuning import AS_CONFIGURED
from nas.search.trial import Failure, Job, Result
from nas.storage.study import Study
from tests.support.factories import ARCHITECTURE
from tests.support.search_file import make_search_config
from tests.support.search_loop import SimulatedExecutor, config_with, search


def shared(**changes: Any) -> Config:
    """Return a configuration whose full trainings up to four devices may share."""
    return config_with(**{"recipe__batch_size": 64, **changes})


def gpus(count: int, **options: Any) -> SimulatedExecutor:
    return SimulatedExecutor([1] * count, random.Random(3), are_gpus=True, **options)


def device_counts(executor: SimulatedExecutor) -> list[int]:
    """Return the numbers of devices of all full trainings, in the order of their starts."""
    return [len(devices) for job, devices in executor.submitted if job.stage == "full"]


def full_results(directory: Path, config: Config) -> list[Result]:
    with Study(directory, config.space, name="run", config=config.as_dict()) as study:
        return study.results("full")


def test_finalists_are_shared_only_while_there_are_fewer_than_devices(tmp_path: Path) -> None:
    config = shared()
    planned = 0
    for count in (1, 2, 3, 4, 8):
        executor, output = gpus(count), io.StringIO()
        directory = tmp_path / str(count)
        directory.mkdir()
        search(directory, config, executor, output=output)
        found = device_counts(executor)
        planned = planned or len(found)  # the finalists, and the default if it is not one of them
        assert len(found) == planned and planned in (2, 3)
        first = found[: min(count, planned)]
        assert sum(first) == min(count, 4 * planned) and max(first) - min(first) <= 1
        assert all(len(devices) == 1 for job, devices in executor.submitted if job.stage != "full")
        assert (f"shared by {max(found)} devices)" in output.getvalue()) == (max(found) > 1)


def test_deterministic_search_divides_no_training(tmp_path: Path) -> None:
    executor = gpus(8)
    search(tmp_path, shared(deterministic=True), executor)
    assert set(device_counts(executor)) == {1}


def test_finalist_that_loses_one_of_its_workers_is_repeated_on_one_device(tmp_path: Path) -> None:
    config, killed = shared(), set[int]()

    def fate(job: Job, grant: int) -> Failure | None:
        if job.stage == "full" and isinstance(job.key, CandidateKey) and job.trial not in killed:
            killed.add(job.trial)
            return Failure(job, "killed_externally", "killed", "its worker was killed from outside")
        return None

    executor = gpus(8, fate=fate)
    search(tmp_path, config, executor)
    results = full_results(tmp_path, config)
    assert {result.trial for result in results} == killed
    assert {result.device_count for result in results} == {1}


class Fits:
    """Everything fits."""

    def fit(self, architecture: object) -> Fit:
        return Fit(1000, 1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"recipe.batch_size": 64}, 4),
        ({"recipe.batch_size": 63}, 3),
        ({"recipe.batch_size": 8}, 1),
        ({"recipe.batch_size": 64, "deterministic": True}, 1),
    ],
)
def test_parts_of_a_batch_have_a_least_size(changes: dict[str, Any], expected: int) -> None:
    factory = job_factory(make_search_config(**changes))
    (job, again) = (
        factory.job(key, ARCHITECTURE, "full", 10) for key in (CandidateKey(1), RerunKey(CandidateKey(1), 2))
    )
    assert job is not None and again is not None
    assert job.most_devices == again.most_devices == expected


def test_only_steps_of_full_trainings_are_shared() -> None:
    factory = job_factory(make_search_config(**{"recipe.batch_size": 64}))
    jobs = [
        factory.job(CandidateKey(1), ARCHITECTURE, "one_shot", 0),
        factory.job(CandidateKey(1), ARCHITECTURE, "short", 5),
        factory.job(SpeedKey(0), ARCHITECTURE, "full", 0),
        factory.job(TeacherKey("0" * 16), ARCHITECTURE, "full", 0),
    ]
    assert [job is not None and job.most_devices for job in jobs] == [1] * 4


@pytest.mark.parametrize("change", ["retrieval", "pretraining"])
def test_losses_that_compare_the_samples_of_a_batch_are_not_divided(change: str) -> None:
    config = make_search_config(**{"recipe.batch_size": 64})
    if change == "retrieval":
        config = config.model_copy(update={"data": config.data.model_copy(update={"task": "retrieval"})})
    else:
        config = config.model_copy(update={"pretraining": config.pretraining.model_copy(update={"steps": 3})})
    job = job_factory(config).job(CandidateKey(1), ARCHITECTURE, "full", 10)
    assert job is not None and job.most_devices == 1


def job_factory(config: Config) -> JobFactory:
    return JobFactory(config, cast(Feasibility, Fits()), AS_CONFIGURED)
