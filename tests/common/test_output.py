"""Standard streams that are closed, full, no longer read, or lack characters."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nas.cli import main
from nas.common.output import OutputError, OutputStream, ReaderGone, complain, resilient_output, visible
from nas.common.progress import LineReporter, TerminalReporter, build_reporter
from tests.support.paths import REPOSITORY

FULL = Path("/dev/full")


def opened(tmp_path: Path, encoding: str) -> io.TextIOWrapper:
    return (tmp_path / "out").open("w", encoding=encoding)


@pytest.fixture
def broken_pipe() -> io.TextIOWrapper:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_characters_that_an_encoding_lacks_are_replaced(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", opened(tmp_path, encoding))
    with resilient_output():
        print("5 − 1 → 4 ≤ 4 犬 \udcff")
        with TerminalReporter(sys.stdout) as reporter:
            reporter.progress("supernet", 1, 2, "≥ 1")
    assert (tmp_path / "out").read_bytes().startswith(b"5 - 1 -> 4 <= 4 \\u72ac \\xff\n")


def test_errors_of_characters_are_the_original_ones_again_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = opened(tmp_path, "ascii")
    monkeypatch.setattr(sys, "stdout", original)
    with resilient_output():
        assert sys.stdout is not original
    assert sys.stdout is original and original.errors == "strict"


def test_lines_that_a_full_disk_refuses_continue_on_the_other_stream(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with resilient_output() as (output, errors):
            output.go_on_with(errors)
            reporter = LineReporter(sys.stdout)
            reporter.note("first")
            reporter.note("second")
            output.check()
    shown = "standard output: cannot be written (no space left on device); messages continue here\nfirst\nsecond\n"
    assert capsys.readouterr().err == shown


def test_closed_output_is_explained_before_the_first_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with resilient_output() as (output, errors):
        output.go_on_with(errors)
        print("first")
    assert capsys.readouterr().err == "standard output: is closed; messages continue here\nfirst\n"


def test_lost_answer_is_an_error_that_tells_a_reader_that_has_ended_from_a_full_disk(
    broken_pipe: io.TextIOWrapper,
) -> None:
    for stream, kind in ((broken_pipe, ReaderGone), (FULL.open("w"), OutputError), (None, OutputError)):
        output = OutputStream(stream, "standard output")
        output.write("answer\n")
        with pytest.raises(
            OutputError, match=r"standard output: .*so the answer is lost; expected a terminal"
        ) as caught:
            output.check()
        assert caught.type is kind
        if stream is not None:
            stream.close()  # what was left in its buffer does not fail


def test_errors_go_to_standard_output_if_standard_error_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with resilient_output():
        print("noise", file=sys.stderr)
        complain("error: \x1b[31mred")
    assert capsys.readouterr().out == "error: \\x1b[31mred\n"


def test_everything_closed_is_no_error() -> None:
    output, errors = OutputStream(None, "standard output"), OutputStream(None, "standard error")
    output.go_on_with(errors)
    output.write("lost\n")
    output.check()


def test_control_characters_are_visible_and_text_of_any_language_is_kept() -> None:
    assert visible("a\x1b[2Jb\r\x9bc\u202ed\n\te") == "a\\x1b[2Jb\\r\\x9bc\\u202ed\n\te"
    text = "naïve 犬 👩\u200d🔬 مرحبا"
    assert visible(text) == text


REDIRECTIONS = [">&-", "2>&-", ">&- 2>&- <&-", "> /dev/full", "2> /dev/full", "<&-"]
ALL_CLOSED = ">&- 2>&- <&-"


def check_status(words: list[str], redirection: str, message: str) -> None:
    """Run the program without some standard streams, which only the shell can close: Python itself opens none."""
    code = f"import sys; from nas.cli import main; sys.exit(main({words}))"
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, code],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 2
    has_place = redirection != ALL_CLOSED
    assert (done.stdout + done.stderr).count(message) == has_place
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_status_of_the_program_is_clear_without_a_standard_stream(redirection: str) -> None:
    check_status(["resume", "none", "--budget", "soon"], redirection, "error: --budget: invalid value; ")


@pytest.mark.long
@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_status_is_clear_without_a_standard_stream_after_the_slow_imports(redirection: str) -> None:
    check_status(["resume", "none"], redirection, "error: none: holds no run")


def test_help_that_a_full_disk_refuses_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["--help"]) == 2
    assert capsys.readouterr().err.startswith("error: standard output: cannot be written (no space left on device)")


@pytest.mark.parametrize(
    "words",
    [
        ["resume", "x\n\x1b[31m\udcff"],
        ["export", "none", "--output=x\n\x1b[31m"],
        ["predict", "none", "--image", "x\n\x1b[31m", "--text", "a"],
        ["space", "x\n\x1b[31m.yaml", "--memory-budget", "1\n\x1b[31m"],
    ],
    ids=lambda words: words[0],
)
def test_arguments_in_errors_stay_on_one_line_and_do_not_drive_the_terminal(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and error.removesuffix("\n").isprintable()


def test_wrong_arguments_stay_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["resume", "a", "b\n\x1b[31m\udcff"])
    assert capsys.readouterr().err.endswith("error: unrecognized arguments: b\\n\\x1b[31m\\xff\n")


def test_reporter_of_the_python_api_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", opened(tmp_path, "ascii"))
    with build_reporter() as reporter:
        reporter.note("±")
    assert (tmp_path / "out").read_text() == "+-\n"
    monkeypatch.setattr(sys, "stdout", None)
    with build_reporter() as reporter:
        reporter.note("kept")
    assert capsys.readouterr().err.endswith("kept\n")
