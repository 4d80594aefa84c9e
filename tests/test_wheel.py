"""The built package: it has the templates and the demo, and runs without the checkout."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built offline from a copy of the tracked files, so that nothing is written into the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    source = folder / "source"
    for name in filter(None, names.split("\0")):
        if name.startswith(("nas/", "search_spaces/", "demo/")) or "/" not in name:
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(REPOSITORY / name)
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_wheel_has_the_templates_and_everything_that_the_demo_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        contents = {
            path.name: path.read_bytes() == archive.read(f"nas/templates/search_spaces/{path.name}")
            for path in (REPOSITORY / "search_spaces").iterdir()
        }
    assert all(contents.values()) and "demo.yaml" in contents
    for name in ("data/manifest.csv", "data/images.zip", "encoders/vit-tiny-clipart/model.safetensors"):
        assert f"nas/templates/demo/{name}" in names
    assert not any(name.endswith(".py") for name in names if name.startswith("nas/templates/"))
    assert {name.split("/")[0].split("-")[0] for name in names} == {"nas", "pmf_nas"}


@pytest.mark.long
def test_demo_is_searched_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "installed"
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", str(place), str(wheel)], check=True)

    def run(*words: str) -> str:
        done = subprocess.run(
            [place / "bin" / "pmf-nas", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1"},
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert run("--version").strip() == f"pmf-nas {version}"
    assert "food101" in run("init", "--list")
    assert "demo: 768 architectures" in run("space", "demo")
    template = place / "nas" / "templates" / "search_spaces" / "demo.yaml"
    assert str(template.parents[1] / "demo") in run("init", "--template", "demo")
    (tmp_path / "quick.yaml").write_text(
        f"extends: {template}\nname: quick\nrecipe: {{epochs: 1}}\nsupernet: {{steps: 3}}\n"
        "search: {finalists: 1, rerun_seeds: 0, short_training_steps: 2}\nbudget: {trials: 5, time: null}\n"
    )
    output = run("search", "quick.yaml", "--workers", "0", "--cache-dir", str(tmp_path / "cache"))
    assert output.splitlines()[0].endswith("pmf-nas resume runs/quick-0")
    assert (tmp_path / "runs" / "quick-0" / "best" / "model-00001-of-00002.safetensors").is_file()
