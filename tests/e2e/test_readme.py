"""The README's quick start and Python example, run on a small project."""

import runpy
import shlex
import shutil
from pathlib import Path

import pytest

from nas.cli import main
from nas.models.classifier import FusionForClassification
from tests.support.documents import blocks
from tests.support.paths import REPOSITORY
from tests.support.project import Project

README = REPOSITORY / "README.md"
COMMANDS = [
    shlex.split(line, comments=True)[2:]
    for block in blocks(README, "sh")
    for line in block.splitlines()
    if line.startswith("python run_search.py")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def _on_project(command: list[str], project: Project, folder: Path) -> list[str]:
    """Return a command with the small project in place of the demo, a small budget and no worker processes."""
    replaced = {
        "search_spaces/demo.yaml": str(project.root / "search.yaml"),
        "demo/data/manifest.csv": str(project.manifest),
        "demo/data/images.zip": str(project.images),
        "picture.png": str(project.images / "000.png"),
        "runs/demo": str(folder / "run"),
        "my_model": str(folder / "my_model"),
        "4m": "5",
        "6m": "5",
        "8m": "6",
    }
    words = [replaced.get(word, word) for word in command]
    if words[0] in ("search", "resume"):
        words += ["--workers", "0", "--cache-dir", str(folder / "cache")]
    return words


def test_quick_start_runs_in_the_order_shown(
    project: Project, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [command for command in COMMANDS if command[0] != "compare"]  # see tests/run/comparison
    assert [command[0] for command in run] == ["space", "search", "resume", "export", "evaluate", "predict"]
    for command in run:
        assert main(_on_project(command, project, folder)) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count(":") >= 3


def test_python_example_classifies_with_the_exported_model(
    project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (block,) = blocks(README, "python")
    script = folder / "example.py"
    script.write_text(block)
    shutil.copy(project.images / "000.png", folder / "picture.png")
    (folder / "runs").mkdir()
    (folder / "runs" / "demo").symlink_to(folder / "run")
    names = runpy.run_path(str(script))
    (answer,) = names["loaded"].predict([folder / "picture.png"], ["a red apple"])
    (probabilities,) = names["loaded"].predict_proba(["picture.png"], ["a red apple"])
    assert answer in ("red", "green", "blue") and sum(probabilities) == pytest.approx(1.0, abs=1e-5)
    assert isinstance(names["model"], FusionForClassification)
