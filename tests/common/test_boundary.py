import json
import os
from pathlib import Path

import pytest

from nas.common.boundary import check_no_lfs_pointer, read_bytes, read_json, read_text, reading, reason_of, shown
from nas.common.errors import DataError, NasError
from nas.common.interrupt import Interrupted


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (MemoryError(), "more memory needed than available"),
        (KeyError("weights"), "'weights' is missing"),
        (ValueError("first line\nsecond line"), "first line"),
        (PermissionError(13, "Permission denied", "/a/b"), "permission denied"),
        (AttributeError("no attribute"), "unexpected content (no attribute)"),
        (OverflowError("too large"), "unexpected content (too large)"),
        (AssertionError(), "no reason given"),
        (ValueError("expected text but got: <class 'builtins.float'>"), "expected text but got: float"),
        (RuntimeError("Error for field 'x':\n    TypeError: not a number"), "Error for field 'x': not a number"),
    ],
)
def test_every_exception_becomes_one_error_with_its_reason(raised: Exception, reason: str) -> None:
    def read() -> None:
        with reading("labels.csv", expected="a table", error=DataError):
            raise raised

    with pytest.raises(DataError) as caught:
        read()
    assert str(caught.value) == f"labels.csv: cannot be read: {reason}; expected a table"


def test_panic_of_a_library_in_rust_becomes_an_error() -> None:
    class PanicException(BaseException):
        pass

    def read() -> None:
        with reading("tokenizer.json", expected="a tokenizer"):
            raise PanicException("index out of bounds")

    with pytest.raises(NasError, match=r"tokenizer\.json: cannot be read: index out of bounds; expected a tokenizer"):
        read()


@pytest.mark.parametrize("raised", [NasError("complete"), Interrupted(), KeyboardInterrupt()])
def test_complete_errors_and_interruptions_pass(raised: BaseException) -> None:
    def read() -> None:
        with reading("labels.csv", expected="a table"):
            raise raised

    with pytest.raises(type(raised)) as caught:
        read()
    assert caught.value is raised


def test_values_are_shown_on_one_short_printable_line() -> None:
    assert shown("cat") == "'cat'"
    assert shown("a\nb\ud800\u202e") == r"'a\nb\ud800\u202e'"
    assert len(shown("x" * 10_000)) <= 80
    assert shown(10**6_000).startswith("a number of about 5,9")
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert len(shown(nested)) <= 80


@pytest.mark.parametrize("make", ["missing", "folder", "pipe", "device", "large", "pointer"])
def test_only_regular_files_of_bounded_size_are_read(make: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    words = {
        "missing": "no such file",
        "folder": "a folder",
        "pipe": "a named pipe",
        "device": "a device",
        "large": "too large",
        "pointer": "git lfs pull",
    }
    if make == "folder":
        path.mkdir()
    elif make == "pipe":
        os.mkfifo(path)
    elif make == "device":
        path = Path("/dev/zero")
    elif make == "large":
        path.write_bytes(b"x" * 101)
    elif make == "pointer":
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(DataError) as caught:
        read_bytes(path, expected="a manifest", error=DataError, max_bytes=100)
    assert str(path) in str(caught.value)
    assert "a manifest" in str(caught.value)
    assert words[make] in str(caught.value)


def test_content_is_returned_without_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("\ufeffé".encode())
    assert read_text(path, expected="text") == "é"
    path.write_bytes(b"ab\xff")
    with pytest.raises(NasError, match="byte 3 is not UTF-8 text; expected a note in UTF-8"):
        read_text(path, expected="a note")
    check_no_lfs_pointer(path, expected="text")


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5_000, "{", "", "\x00"])
def test_invalid_json_is_one_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(NasError, match=r"report\.json: is not valid JSON: .*; expected a report"):
        read_json(path, expected="a report")
    path.write_text(json.dumps({"a": 1}))
    assert read_json(path, expected="a report") == {"a": 1}


def test_the_reason_is_on_one_line() -> None:
    assert "\n" not in reason_of(ValueError("a\x1bb"))
    assert len(reason_of(ValueError("x" * 5_000))) <= 200
    assert reason_of(ValueError("field 'a':\n  expected int\nmore")) == "field 'a': expected int"
