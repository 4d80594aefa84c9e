from pathlib import Path

import pytest

from nas.common.errors import ExecutionError
from nas.execution.temporary_place import temporary_place


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_place_that_the_environment_names_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert temporary_place() == (Path("/tmp"), "")
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert temporary_place() == (Path("/var/tmp"), "")
    monkeypatch.setenv("RAY_TMPDIR", "/dev/shm")
    assert temporary_place() == (Path("/dev/shm"), "")


def test_place_that_cannot_be_used_is_replaced_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    cases = {
        str(long): f"too long for the names of sockets (at most 29 bytes, got {len(str(long))})",
        "/tmp/missing": "does not exist",
        "/etc/hosts": "is not a directory",
        "tmp": "is not an absolute path",
        "/proc": "",
    }
    for place, problem in cases.items():
        monkeypatch.setenv("TMPDIR", place)
        found, line = temporary_place()
        assert found == Path("/tmp")
        assert line.startswith(f"Ray: TMPDIR={place} ") and problem in line
        assert line.endswith("; its temporary files are in /tmp instead")


def test_system_without_any_place_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *arguments: False)
    with pytest.raises(ExecutionError, match=r"/tmp cannot be written; .*expected a writable one .* at most 29 bytes"):
        temporary_place()
