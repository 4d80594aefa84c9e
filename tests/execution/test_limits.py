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
