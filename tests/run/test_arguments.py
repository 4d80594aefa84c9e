import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.cli import main
from nas.common.errors import NasError
from nas.run.arguments import parse_budget, parse_memory_budget, parse_pick

LONG = "9" * 5000
HOSTILE = ["", " ", "-1", "1e3", "1_000", "٣", "²", "nan", "inf", "0x10", LONG, "1\0", "\udcff"]
PARSERS: list[Callable[[str], object]] = [
    parse_budget,
    parse_memory_budget,
    lambda text: parse_pick(["smallest-within", text]),
]


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("number", HOSTILE)
@pytest.mark.parametrize("unit", ["", "GiB", "m", "K\N{KELVIN SIGN}B"])
def test_hostile_number_is_refused_in_a_short_line(parse: Callable[[str], object], number: str, unit: str) -> None:
    with pytest.raises(NasError, match="expected") as caught:
        parse(number + unit)
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["0B", "0.4B", "1000001TB"])
def test_memory_budget_is_above_nothing_and_below_what_no_machine_has(text: str) -> None:
    with pytest.raises(NasError, match=f"--memory-budget: invalid value; .* at most 1000000TB, .* got '{text}'"):
        parse_memory_budget(text)


@pytest.mark.parametrize("text", ["3651d", "1000000001"])
def test_budget_is_below_what_no_search_needs(text: str) -> None:
    with pytest.raises(NasError, match=f"--budget: invalid value; .* at most 3650d, .* got '{text}'"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["search", "s.yaml", "--seed"], "--seed"),
        (["search", "s.yaml", "--workers"], "--workers"),
        (["compare", "s.yaml", "--seeds"], "--seeds"),
        (["export", "r", "--output", "x", "--trial"], "--trial"),
        (["predict", "m", "--image", "i", "--text", "t", "--top"], "--top"),
        (["search", "s.yaml", "--strategy"], "--strategy"),
    ],
)
@pytest.mark.parametrize("value", ["-1", "1.5", "٣", LONG])
def test_option_with_a_wrong_value_is_one_short_error(
    arguments: list[str], option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, value])
    last = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2 and f"argument {option}: " in last and len(last) < 400


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "binary", "utf-16"])
def test_search_file_that_is_no_text_file_is_one_error(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"\x89PNG\r\n" if kind == "binary" else "name: a".encode("utf-16"))
    assert main(["space", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"error: {path}: 1 problem\n  - cannot be read")
    assert "expected a search file" in captured.err and len(captured.err.splitlines()) == 2
