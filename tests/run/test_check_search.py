"""The command `check`: what can be known before a search."""

from pathlib import Path

import pytest

from nas.cli import main
from tests.support.project import Project, build_project


@pytest.fixture(scope="module")
def own_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose files may be changed."""
    return build_project(tmp_path_factory.mktemp("check") / "project")


def check(project: Project, cache: Path, *words: str, **changes: object) -> int:
    source = project.write("checked.yaml", **changes)
    return main(["check", str(source), "--cache-dir", str(cache), *words])


def test_sound_search_is_described_with_its_times_and_nothing_is_left_behind(
    own_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert check(own_project, tmp_path / "cache", "--budget", "1h") == 0
    shown = capsys.readouterr().out
    for part in ("train: 36 samples", "Memory budget", "Encoder outputs are cached once", "Computing them takes about"):
        assert part in shown
    assert "A full training of the default takes about" in shown and "\nPlan: supernet" in shown
    assert shown.splitlines()[-1].startswith("No problem found. Start the search with: python run_search.py search ")
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"} and not (tmp_path / "cache" / "features").exists()


def test_time_that_holds_no_training_is_an_error(
    own_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(own_project, tmp_path, "--budget", "0.01s") == 2
    assert "hold no full training of the default; expected at least" in capsys.readouterr().err


def test_every_image_is_decoded(own_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = own_project.images / "007.png"
    content = image.read_bytes()
    image.write_bytes(content[:40])
    try:
        assert check(own_project, tmp_path) == 2
    finally:
        image.write_bytes(content)
    error = capsys.readouterr().err
    assert "1 of 60 images are missing or cannot be read: 007.png" in error and "Traceback" not in error


def test_wrong_place_of_the_images_is_named_with_the_right_one(
    own_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(own_project, tmp_path, **{"data.images": str(own_project.root)}) == 2
    assert f"; they are in {own_project.images}: set data.images to it" in capsys.readouterr().err
