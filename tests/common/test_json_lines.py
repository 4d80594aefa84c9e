"""Files to which a program appends one JSON object a line, and which a kill may cut anywhere."""

from pathlib import Path
from typing import Any

import pytest

from nas.common.errors import StudyError
from nas.common.json_lines import append_json_line, read_json_lines


def test_objects_are_read_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert read_json_lines(path) == []
    entries: list[dict[str, Any]] = [{"a": 1.5}, {"text": "ä\n<b>"}, {"nested": {"x": [1, None]}}]
    for entry in entries:
        append_json_line(path, entry)
    assert read_json_lines(path) == entries
    assert path.read_bytes().count(b"\n") == 3


def test_line_that_is_cut_anywhere_damages_no_other(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    append_json_line(first, {"number": 1})
    append_json_line(first, {"text": "whole"})
    content = first.read_bytes()
    start = content.index(b"\n") + 1
    for end in range(start, len(content)):
        second.write_bytes(content[:end])
        kept = read_json_lines(second)
        assert kept[0] == {"number": 1} and kept[1:] in ([], [{"text": "whole"}])
        append_json_line(second, {"number": 2})
        assert read_json_lines(second) == [*kept, {"number": 2}]


def test_lines_that_are_no_objects_are_left_out_and_a_folder_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'1\n[2]\n\xff\xfe\n\n{"a": 3}\n{"a": ')
    assert read_json_lines(path) == [{"a": 3}]
    with pytest.raises(StudyError, match="expected one JSON object a line"):
        read_json_lines(tmp_path)
