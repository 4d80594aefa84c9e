"""A run knows its data and encoders by content: places may change, content may not."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from nas.cli import main
from nas.common.errors import ConfigError, StudyError
from nas.run.directory import read_run
from nas.run.executors import ExecutionOptions
from tests.support.project import Project, build_project
from tests.support.runs import counts_of, resume_search, run_search

BUILT = "Encoder outputs are cached once"
"""Begins the line about a build of features."""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> ExecutionOptions:
    """A feature cache of these tests alone: projects of other tests have the same content, and so the same features."""
    return ExecutionOptions(worker_count=0, cache_directory=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, options: ExecutionOptions) -> Project:
    """A project with a run in it and its search file, which tests copy."""
    project = build_project(tmp_path_factory.mktemp("places") / "project")
    for path in [*project.images.iterdir(), *project.root.glob("*/*.safetensors")]:
        os.utime(path, (10**9, 10**9))  # long enough ago for the index of digests
    assert BUILT in run_search(project.root / "search.yaml", project.root / "runs" / "a", options, trials=2)
    return project


@pytest.fixture
def moved(searched: Project, tmp_path: Path) -> Project:
    """The whole project at another place."""
    return Project(Path(shutil.copytree(searched.root, tmp_path / "moved here")))


def run_of(project: Project) -> Path:
    return project.root / "runs" / "a"


def search_section(run: Path) -> dict[str, dict[str, str]]:
    values: dict[str, dict[str, str]] = yaml.safe_load((run / "config.yaml").read_text())["search"]
    return values


def test_moved_project_goes_on(
    moved: Project, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(moved)
    for path in [*moved.images.iterdir(), *moved.root.glob("*/*.safetensors")]:
        path.touch()
    monkeypatch.chdir(tmp_path)
    output = resume_search(run.relative_to(tmp_path), options, trials=3)
    assert counts_of(run)[0] == 3 and BUILT not in output, "equal content has the same features"
    assert search_section(run)["data"] == {
        **search_section(run)["data"],
        "manifest": "../../manifest.csv",
        "images": "../../images",
    }
    assert search_section(run)["encoders"] == {"image": "../../vit", "text": "../../bert"}
    output = run_search(moved.root / "search.yaml", run, options, trials=3)
    assert "holds this search; resuming it" in output and BUILT not in output
    assert main(["export", str(run), "--output", str(tmp_path / "model")]) == 0


def test_run_that_is_moved_alone_finds_data_and_encoders(
    searched: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(run_of(searched), tmp_path / "deep" / "er" / "run"))
    assert "Exported model" in resume_search(run, options)
    text = search_section(run)["data"]["manifest"]
    assert not os.path.isabs(text) and (run / text).resolve() == searched.manifest.resolve()
    os.rename(run, tmp_path / "again")
    assert "Exported model" in resume_search(tmp_path / "again", options)


def test_new_places_are_given_once(moved: Project, options: ExecutionOptions, tmp_path: Path) -> None:
    run = Path(shutil.move(run_of(moved), tmp_path / "run"))
    for name in ("manifest.csv", "images", "vit"):
        shutil.move(moved.root / name, tmp_path / name)
    shutil.make_archive(str(tmp_path / "pictures"), "zip", tmp_path / "images")
    (moved.root / "runs").rmdir()
    shutil.move(moved.root, tmp_path / "rest")
    places = {
        "data": str(tmp_path / "manifest.csv"),
        "images": str(tmp_path / "pictures.zip"),
        "image_encoder": str(tmp_path / "vit"),
        "text_encoder": str(tmp_path / "rest" / "bert"),
    }
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["directory"] = "/nowhere/runs/a"
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError) as missing:
        resume_search(run, options)
    assert [problem.rpartition(" ")[2] for problem in missing.value.problems] == [
        "--data",
        "--images",
        "--image-encoder",
        "--text-encoder",
    ]
    with pytest.raises(ConfigError) as wrong:
        resume_search(run, options, **{**places, "data": str(tmp_path / "none.csv")})
    assert str(wrong.value).startswith("the command line: ")
    assert wrong.value.problems == (f"--data: not found; expected an existing path, got {tmp_path / 'none.csv'}",)
    assert BUILT not in resume_search(run, options, **places), "an archive has the content of the folder"
    assert search_section(run)["data"]["images"] == places["images"], "absolute paths stay absolute"
    assert "Exported model" in resume_search(run, options)
    images = read_run(run).config.data.images
    resume_search(run, options, data=str(Path(os.path.relpath(tmp_path / "manifest.csv"))))
    assert read_run(run).config.data.images == images


def test_export_checks_the_encoders_only(moved: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(moved)
    shutil.rmtree(moved.images)
    moved.manifest.unlink()
    shutil.move(moved.root / "vit", tmp_path / "vit")
    command = ["export", str(run), "--output", str(tmp_path / "model")]
    values = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**values, "directory": "/nowhere/runs/a"}))
    assert main(command) == 2 and "expected a file config.json" in capsys.readouterr().err
    assert main([*command, "--image-encoder", str(tmp_path / "vit")]) == 0
    assert main(command) == 0, "the place is recorded"
    change_weight(Project(tmp_path))
    assert main(command) == 2
    assert f"image encoder {tmp_path / 'vit'}: model.safetensors" in capsys.readouterr().err


def change_weight(project: Project) -> None:
    path = project.root / "vit" / "model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, path, {"format": "pt"})


def replace_in_manifest(row: int, old: str, new: str) -> Callable[[Project], None]:
    def change(project: Project) -> None:
        lines = project.manifest.read_text().splitlines()
        assert old in lines[row - 1]
        project.manifest.write_text("\n".join([*lines[: row - 1], lines[row - 1].replace(old, new), *lines[row:]]))

    return change


def change_pixel(project: Project) -> None:
    Image.new("RGB", (20, 20), (1, 2, 3)).save(project.images / "005.png")


def swap_rows(project: Project) -> None:
    header, first, second, *others = project.manifest.read_text().splitlines()
    project.manifest.write_text("\n".join([header, second, first, *others]))


def change_normalization(project: Project) -> None:
    path = project.root / "vit" / "preprocessor_config.json"
    path.write_text(path.read_text().replace("0.5", "0.4"))


CHANGED = r"the content has changed; expected the digest .*, got .*"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            change_pixel,
            r"train: the content of the image has changed in 1 sample\(s\), the first in row 7 \('005.png'\)",
        ),
        (
            replace_in_manifest(3, "green", "blue"),
            r"train: the label has changed in 1 .* row 3 \('001.png'\)",
        ),
        (
            replace_in_manifest(2, "000.png,", "000.png,fox "),
            r"train: the text has changed in 1 .* row 2 \('000.png'\)",
        ),
        (swap_rows, r"train: the samples are in another order, .*, from row 2 \('001.png'\)"),
        (change_weight, rf"image encoder .*vit: model.safetensors: {CHANGED}"),
        (change_normalization, rf"image encoder .*vit: preprocessor_config.json: {CHANGED}"),
    ],
)
def test_changed_content_is_refused_and_named(
    moved: Project, options: ExecutionOptions, change: Callable[[Project], None], named: str
) -> None:
    change(moved)
    with pytest.raises(StudyError, match=named) as refused:
        resume_search(run_of(moved), options, trials=3)
    assert str(refused.value).count("\n  - ") == 1
    with pytest.raises(StudyError, match=named):
        run_search(moved.root / "search.yaml", run_of(moved), options, trials=3)


def test_verify_finds_a_change_that_keeps_size_and_time(searched: Project, options: ExecutionOptions) -> None:
    image = searched.images / "000.png"
    before = image.read_bytes()
    try:
        Image.new("RGB", (8, 8), (1, 2, 3)).save(image)
        image.write_bytes(image.read_bytes().ljust(len(before), b"\0"))
        os.utime(image, (10**9, 10**9))
        resume_search(run_of(searched), options)
        with pytest.raises(StudyError, match=r"the content of the image has changed in 1 .* row 2"):
            resume_search(run_of(searched), replace(options, verify=True))
    finally:
        image.write_bytes(before)
        os.utime(image, (10**9, 10**9))


def test_paths_may_be_edited_by_hand_and_nothing_else(
    moved: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    path = run_of(moved) / "config.yaml"
    shutil.move(moved.root / "bert", tmp_path / "bert")
    values = yaml.safe_load(path.read_text())
    values["search"]["encoders"]["text"] = "../../../bert"
    path.write_text(yaml.safe_dump(values))
    resume_search(run_of(moved), options)
    values = yaml.safe_load(path.read_text())
    values["search"]["recipe"]["epochs"] = 3
    values["class_names"].reverse()
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(StudyError) as refused:
        resume_search(run_of(moved), options)
    assert "recipe.epochs: 2 → 3" in str(refused.value) and "class_names: [" in str(refused.value)
