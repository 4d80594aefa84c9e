import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nas.run.program_name import command_line, program_call, program_name, quoted

WORDS = ["runs/demo", 'my runs/it\'s "mine"', "$HOME `x` \\ *", "a\nb\x1b[31m'c\\", "caf\udce9", "犬", "", "-x"]


@pytest.mark.parametrize("word", WORDS, ids=ascii)
def test_quoted_word_is_one_printable_line_that_the_shell_reads_back(word: str) -> None:
    text = quoted(word)
    assert text.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {text}"], capture_output=True, check=True)
    assert done.stdout == word.encode("utf-8", "surrogateescape")


def test_directory_that_looks_like_an_option_is_given_as_a_path() -> None:
    line = command_line("resume", Path("-x"), rest="--budget ...")
    assert line == "python run_search.py resume ./-x --budget ..."


@pytest.mark.parametrize(
    ("called", "call"),
    [
        ("run_search.py", "python run_search.py"),
        ("/my code/run_search.py", "python '/my code/run_search.py'"),
        ("-c", "python run_search.py"),
        ("/usr/bin/pytest", "python run_search.py"),
        ("/nowhere/bin/pmf-nas", "/nowhere/bin/pmf-nas"),
    ],
)
def test_program_is_called_as_the_user_called_it(called: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    assert program_call() == call
    assert shlex.split(call)[-1].endswith(program_name())


def test_installed_program_is_called_by_its_name_where_the_shell_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "pmf-nas"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert program_call() == program_name() == "pmf-nas"
