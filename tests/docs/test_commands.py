"""Every command in the documents exists and accepts the options that are shown."""

import argparse
import importlib
import importlib.metadata
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nas.cli import main
from tests.support.documents import DOCUMENTS, blocks
from tests.support.paths import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
CI = "".join((REPOSITORY / ".ci" / name).read_text() for name in ("run", "full"))


def _commands() -> list[tuple[str, tuple[str, ...]]]:
    found = {}
    for path in DOCUMENTS:
        for block in blocks(path, "sh"):
            for line in block.splitlines():
                words = tuple(shlex.split(line, comments=True))
                if words:
                    found[words] = path.name
    return [(name, words) for words, name in found.items()]


COMMANDS = _commands()


class _Parsed(Exception):
    """Ends a program after it has parsed its arguments."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every program end with `_Parsed` once its own argument parser has accepted the arguments."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(self: argparse.ArgumentParser, *arguments: Any, **options: Any) -> None:
        parse(self, *arguments, **options)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_end)


def _check_make(words: tuple[str, ...]) -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    variables = set(re.findall(r"^(\w+) \?=", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for word in words[1:]:
        assert word.split("=")[0] in (variables if "=" in word else targets)


def _check_python(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for word in words:
        if word.startswith("search_spaces/"):
            assert (REPOSITORY / word).exists(), word
    if words[1] == "-m":
        assert re.search(rf"\b{re.escape(words[2])}\b", CI), f"{words[2]} is run neither by .ci/run nor by .ci/full"
        monkeypatch.setattr(sys, "argv", list(words[2:]))
        run: Callable[[], object] = importlib.import_module(words[2]).main
    else:
        assert words[1] == "run_search.py"
        run = partial(main, words[2:])
    with pytest.raises(_Parsed):
        run()


def _check_pip(words: tuple[str, ...]) -> None:
    assert words[1] == "install"
    extras = PROJECT["project"]["optional-dependencies"]
    used = re.findall(r"[\w-]+", "".join(re.findall(r"\[(.*?)\]", " ".join(words))))
    assert set(used) <= set(extras)


def _check_program(words: tuple[str, ...]) -> None:
    name = Path(words[0]).name
    assert any(re.match(rf"{name}\b", entry) for entry in PROJECT["project"]["optional-dependencies"]["dev"])
    assert name in {script.name for script in importlib.metadata.entry_points(group="console_scripts")}
    if "-m" in words:
        markers = [entry.split(":")[0] for entry in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
        assert words[words.index("-m") + 1] in markers


def _check_ci(words: tuple[str, ...]) -> None:
    assert os.access(REPOSITORY / words[0], os.X_OK)


CHECKS: dict[str, Callable[[tuple[str, ...]], None]] = {
    "make": _check_make,
    "pip": _check_pip,
    "optuna-dashboard": _check_program,
    ".venv/bin/pytest": _check_program,
    ".venv/bin/pre-commit": _check_program,
    ".ci/run": _check_ci,
    ".ci/full": _check_ci,
    "benchmarks/gpu.sh": _check_ci,
    "source": lambda words: None,  # .venv/bin/activate, which `make install` creates
}


@pytest.mark.usefixtures("parse_only")
@pytest.mark.parametrize(("document", "words"), COMMANDS, ids=[" ".join(words) for _, words in COMMANDS])
def test_command_is_accepted_by_its_program(
    document: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if words[0] == "python":
        _check_python(words, monkeypatch)
    elif words[0] == "pmf-nas":  # the same program, installed
        _check_python(("python", "run_search.py", *words[1:]), monkeypatch)
    else:
        assert words[0] in CHECKS, f"{document}: no check for {words[0]}"
        CHECKS[words[0]](words)


@pytest.mark.usefixtures("parse_only")
@pytest.mark.parametrize("program", [("run_search.py", "search", "x.yaml"), ("-m", "benchmarks.strategies")])
def test_unknown_option_is_found(program: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        _check_python(("python", *program, "--nonexistent", "3"), monkeypatch)


def test_every_command_of_the_program_is_documented() -> None:
    shown = {words[2] for _, words in COMMANDS if words[:2] == ("python", "run_search.py")}
    expected = {
        "init",
        "check",
        "space",
        "search",
        "resume",
        "export",
        "evaluate",
        "predict",
        "compare",
        "ablate",
        "report",
        "list",
        "diff",
        "clean",
        "dashboard",
    }
    assert shown == expected
