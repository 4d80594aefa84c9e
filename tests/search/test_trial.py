"""Seeds of jobs."""

from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.trial import job_seed


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
