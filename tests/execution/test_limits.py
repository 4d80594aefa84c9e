import resource

import pytest

from nas.common.errors import ExecutionError
from nas.execution.limits import check_limits


@pytest.mark.parametrize(("limited", "option"), [(resource.RLIMIT_AS, "-v"), (resource.RLIMIT_DATA, "-d")])
def test_limit_that_libraries_would_run_into_is_refused(
    monkeypatch: pytest.MonkeyPatch, limited: int, option: str
) -> None:
    limits = {limited: resource.RLIM_INFINITY}
    monkeypatch.setattr(
        "resource.getrlimit", lambda number: (limits.get(number, resource.RLIM_INFINITY), resource.RLIM_INFINITY)
    )
    check_limits(uses_ray=True)
    limits[limited] = 2**20
    with pytest.raises(ExecutionError, match=rf"ulimit {option}: .* expected at least .* GiB, got 1\.00 MiB$"):
        check_limits(uses_ray=False)
    with pytest.raises(ExecutionError, match="--workers 0 needs less"):
        check_limits(uses_ray=True)


@pytest.mark.parametrize(("uses_ray", "needed"), [(False, 32), (True, 128)])
def test_too_few_open_files_are_refused(monkeypatch: pytest.MonkeyPatch, uses_ray: bool, needed: int) -> None:
    limits = {resource.RLIMIT_NOFILE: needed}
    monkeypatch.setattr("resource.getrlimit", lambda number: (limits.get(number, resource.RLIM_INFINITY),) * 2)
    check_limits(uses_ray=uses_ray)
    limits[resource.RLIMIT_NOFILE] -= 1
    with pytest.raises(ExecutionError, match=rf"ulimit -n: .* at least {needed}, got {needed - 1}"):
        check_limits(uses_ray=uses_ray)
