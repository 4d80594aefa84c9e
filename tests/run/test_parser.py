"""The parser of the command line."""

from pathlib import Path

import pytest

from nas.cli import main
from nas.run.parser import build_parser

COMMANDS = (
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
    "list",
    "diff",
    "clean",
    "report",
    "dashboard",
)


@pytest.mark.parametrize("words", [["--text", "-4m"], ["--text=-4m"]])
def test_value_may_begin_with_a_dash(words: list[str]) -> None:
    parser = build_parser(dict.fromkeys(COMMANDS, lambda options: None))
    options = parser.parse_args(["predict", "model", "--image", "-1.png", *words, "--top", "2"])
    assert (options.image, options.text, options.top) == (Path("-1.png"), "-4m", 2)


@pytest.mark.parametrize("following", [["--top", "2"], ["--to", "2"], ["--top=2"], ["--help"], []])
def test_option_without_its_value_is_an_error(following: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "model", "--image", "a.png", "--text", *following])
    assert ended.value.code == 2
    assert "argument --text: expected one argument" in capsys.readouterr().err
