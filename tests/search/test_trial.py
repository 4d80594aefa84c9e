"""Seeds of jobs, and results as they are stored."""

import pytest

from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.trial import Result, job_seed
from tests.support.factories import make_result


def test_seeds_differ_by_stage_architecture_and_seed() -> None:
    architecture, other = PMFArchitecture(1, 2, 2, 1, 8), PMFArchitecture(2, 2, 2, 1, 8)
    seeds = {
        job_seed(0, "full", architecture),
        job_seed(1, "full", architecture),
        job_seed(0, "short", architecture),
        job_seed(0, "full", other),
    }
    assert len(seeds) == 4
    # Short trainings of all candidates see the same order of samples.
    assert job_seed(0, "short", architecture) == job_seed(0, "short", other)
    assert job_seed(0, "short", architecture) != job_seed(1, "short", architecture)


def test_result_states_the_devices_that_shared_its_training_if_there_were_several() -> None:
    shared = make_result(stage="full", seconds=3.0, device_count=2)
    assert Result.from_dict(shared.as_dict()) == shared and shared.as_dict()["device_count"] == 2
    assert "device_count" not in make_result().as_dict()
    assert Result.from_dict(make_result().as_dict()).device_count == 1
    with pytest.raises(ValueError, match="device_count: expected a whole number"):
        Result.from_dict({**shared.as_dict(), "device_count": "2"})


def test_one_device_takes_at_most_the_time_of_all_that_shared_a_training() -> None:
    assert make_result(seconds=3.0, device_count=2).longest_seconds == 6.0
    assert make_result(seconds=3.0).longest_seconds == 3.0
