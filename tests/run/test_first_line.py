"""The first line of a search, which is there before anything is imported that takes seconds."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from nas import cli
from nas.common.errors import NasError
from nas.common.progress import LineReporter
from nas.run.first_line import announce, start_line
from tests.run.conftest import FinishedRun
from tests.support.project import Project


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is on standard output when torch would be imported, which ends the command."""
    found: list[str] = []

    def stop() -> None:
        found.append(capsys.readouterr().out)
        raise NasError("stopped")

    monkeypatch.setattr(cli, "import_frameworks", stop)
    return found


def test_first_line_comes_before_the_imports(
    shown: list[str], project: Project, finished: FinishedRun, tmp_path: Path
) -> None:
    search = ["search", str(project.root / "search.yaml"), "--run-dir"]
    for words in (
        [*search, str(tmp_path / "new")],
        [*search, str(finished.directory)],
        ["resume", str(finished.directory)],
    ):
        assert cli.main(words) == 2
    reading = f"Reading the run in {finished.directory}\n"
    assert shown == [f"{start_line(tmp_path / 'new')}\n", reading, reading]
    assert str(tmp_path / "new") in shown[0] and "resume" in shown[0]


def test_directory_that_may_be_refused_is_not_announced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    stream = io.StringIO()
    for name in ("mine", "mine/thesis.txt"):
        assert not announce(tmp_path / name, LineReporter(stream))
    assert stream.getvalue() == ""
    (tmp_path / "empty").mkdir()
    assert announce(tmp_path / "empty", LineReporter(stream)) and stream.getvalue().count("\n") == 1


def test_first_line_imports_neither_torch_nor_optuna() -> None:
    code = (
        "import sys, nas.cli, nas.run.first_line; print([name for name in ('torch', 'optuna') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
