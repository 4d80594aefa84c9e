"""The README stays true: its commands exist, with these options; its Python runs; its links lead somewhere."""

import re
import shlex

import pytest

from nas.cli import _parser
from tests.support.paths import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python run_search\.py (.+?)(?:\s+#.*)?$", README, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command: str) -> None:
    assert callable(_parser().parse_args(shlex.split(command)).run)


def test_all_commands_are_shown() -> None:
    shown = {command.split()[0] for command in COMMANDS}
    assert shown == {"space", "search", "resume", "export", "evaluate", "predict", "compare"}


def test_every_measurement_is_run_by_ci() -> None:
    programs = re.findall(r"^python -m (\S+)", README, re.MULTILINE)
    run = (REPOSITORY / ".ci" / "run").read_text()
    assert programs and {name for name in programs if not re.search(rf"\b{re.escape(name)}\b", run)} == set()


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make (\w+)", README)) <= targets


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`((?:nas|search_spaces|demo|benchmarks)/[\w./]*)`", README)
    named += re.findall(r"\]\(((?!https?:|#)[^)]+)\)", README)
    missing = [path for path in named if not (REPOSITORY / path).exists()]
    assert named and not missing


def test_every_link_inside_leads_to_a_heading() -> None:
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings
