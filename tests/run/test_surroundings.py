"""What a search needs besides its files is checked before anything takes long, and before anything is written."""

import socket
from pathlib import Path

import pytest

from nas.cli import main
from nas.common.errors import ExecutionError
from nas.execution.cluster_address import check_cluster, host_and_port
from tests.support.project import Project


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--storage", "study.db"], "--storage study.db: not the URL of a database"),
        (["--storage", "mongo://host/study"], "--storage mongo://host/study: unknown kind of database"),
        (["--storage", "sqlite:///{}/missing/study.db"], "/missing does not exist; expected a file in a writable"),
        (["--storage", "sqlite:///{}"], "is not a file"),
        (["--storage", "sqlite+none:///study.db"], "unknown kind of database"),
        (["--storage", "postgresql://user:secret@127.0.0.1:1/study"], "127.0.0.1:1/study: cannot be used: "),
        (["--workers", "2", "--ray-address", "127.0.0.1:1"], "--ray-address '127.0.0.1:1': cannot connect"),
        (["--workers", "2", "--ray-address", "somewhere"], "not an address; expected HOST:PORT"),
        (["--workers", "2", "--ray-address", "127.0.0.1:99999"], "not an address; expected HOST:PORT"),
        (["--cache-dir", "/dev/null/cache"], "cache directory /dev/null/cache: /dev/null cannot be used"),
        (["--run-dir", "/dev/null/run"], "/dev/null: Not a directory"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_a_search_cannot_use_is_refused_first(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: str,
) -> None:
    def prepare(*arguments: object, **options: object) -> None:
        raise AssertionError("nothing is prepared before the check")

    monkeypatch.setattr("nas.run.session.prepare", prepare)
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "place"
    place.mkdir()
    given = [word.format(place) for word in words]
    usual = {"--run-dir": "run", "--cache-dir": "cache", "--workers": "0"}
    others = [word for name, value in usual.items() if name not in words for word in (name, value)]
    assert main(["search", str(project.root / "search.yaml"), *given, *others]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and expected in message
    assert "secret" not in message
    assert list(place.iterdir()) == [] and [path.name for path in tmp_path.iterdir()] == ["place"]


def test_user_without_a_home_directory_is_told_what_to_choose(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    monkeypatch.chdir(tmp_path)
    assert main(["search", str(project.root / "search.yaml"), "--workers", "0"]) == 2
    assert "no home directory; choose one with --cache-dir or XDG_CACHE_HOME" in capsys.readouterr().err


def test_deleted_working_directory_is_named(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["space", str(project.root / "search.yaml")]) == 2
    assert capsys.readouterr().err.startswith("error: the working directory: was deleted; expected an existing one")


def test_shortage_during_a_command_is_one_line(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(*arguments: object, **options: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr("nas.run.session.prepare", prepare)
    words = ["--run-dir", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache"), "--workers", "0"]
    assert main(["search", str(project.root / "search.yaml"), *words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: out of memory; ") and message.count("\n") == 1


def test_address_that_answers_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_cluster(address)
        check_cluster(f"ray://{address}")
        monkeypatch.setenv("RAY_ADDRESS", address)
        check_cluster("auto")
    with pytest.raises(ExecutionError, match="connection refused"):
        check_cluster("auto")


def test_parts_of_addresses() -> None:
    assert host_and_port("head:6379") == ("head", 6379)
    assert host_and_port("[::1]:6379") == ("::1", 6379)
    for wrong in ("head", ":6379", "head:", "head:port", "head:0", "head:65536", "head:²", "http://head:1"):
        assert host_and_port(wrong) is None, wrong
