"""Search files that come with the program."""

import argparse
from pathlib import Path

import pytest

from nas.cli import main
from nas.config.load import load_arms
from nas.run import templates
from nas.run.templates import list_templates, search_file, template_names, template_text
from tests.support.paths import REPOSITORY


def test_every_search_file_of_the_checkout_is_a_template_with_a_description() -> None:
    found = list_templates()
    assert [name for name, _ in found] == sorted(path.stem for path in (REPOSITORY / "search_spaces").glob("*.yaml"))
    assert all(10 < len(text) <= 80 for _, text in found)


@pytest.mark.parametrize("name", template_names())
def test_template_is_the_same_search_from_any_folder(name: str, tmp_path: Path) -> None:
    original = load_arms(REPOSITORY / "search_spaces" / f"{name}.yaml")
    copy = tmp_path / "mine.yaml"
    copy.write_text(template_text(name))
    copied = load_arms(copy)
    assert [arm.name for arm in copied] == [arm.name for arm in original]
    for mine, theirs in zip(copied, original, strict=True):
        assert mine.config.search == theirs.config.search and mine.config.space == theirs.config.space
        if name.startswith("demo"):
            assert mine.config.data == theirs.config.data and mine.config.encoders == theirs.config.encoders


def test_file_comes_before_the_template_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    template = REPOSITORY / "search_spaces" / "demo.yaml"
    assert search_file("demo") == template
    Path("demo").mkdir()
    assert search_file("demo") == template, "a folder is no search file"
    Path("demo").rmdir()
    Path("demo").write_text("")
    assert search_file("demo") == Path("demo")
    assert search_file("other.yaml") == Path("other.yaml"), "its absence is reported when it is read"
    with pytest.raises(argparse.ArgumentTypeError, match=r"^dmo: no such file; expected .* template: demo, demo_arms"):
        search_file("dmo")


def test_installed_package_has_templates_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "nas"
    (package / "templates" / "search_spaces").mkdir(parents=True)
    (package / "templates" / "search_spaces" / "only.yaml").write_text("# A file. More.\nname: x\n")
    monkeypatch.setattr(templates, "__file__", str(package / "run" / "templates.py"))
    assert list_templates() == [("only", "A file")]


def test_init_lists_and_writes_templates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--list"]) == 0
    assert "demo_per_layer" in capsys.readouterr().out
    target = tmp_path / "mine.yaml"
    assert main(["init", "--template", "demo", "--output", str(target)]) == 0
    assert target.read_text() == template_text("demo")
    assert main(["init", "--template", "demo", "--output", str(target)]) == 2
    assert main(["init", "--template", "dmo"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "exists; expected a file that does not" in errors[0]
    assert errors[1].startswith("error: template 'dmo': unknown; expected one of demo, ")
