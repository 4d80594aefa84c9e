"""Tables from other systems, whole or damaged: no row is lost, and a problem names file and row."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pyarrow import Table, parquet

from nas.common.errors import DataError
from nas.data.dataset import read_dataset
from nas.data.samples import Dataset
from tests.data.test_decoding import LFS_POINTER
from tests.support.folders import config_of, lines, mm_imdb, snli_ve

HEADER = "image,text,label,split"


def read(path: Path, **values: Any) -> Dataset:
    return read_dataset(config_of("manifest", path, **values), ("train",), compares_images=False)


def rows(texts: list[str], delimiter: str = ",") -> str:
    """Return a table whose rows are numbered images with these texts, of two classes."""
    table = [HEADER.split(","), *([f"{i}.png", text, "ab"[i % 2], "train"] for i, text in enumerate(texts))]
    return "".join(delimiter.join(row) + "\n" for row in table)


TEXTS = ["plain", '"Best', *["x"] * 10, 'pie"', "plain"]


def test_tsv_keeps_quotes_in_texts_and_loses_no_row(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text(rows([*TEXTS, '"all"'], "\t"))
    data = read(tmp_path / "m.tsv")
    assert data.splits["train"].texts == (*TEXTS, '"all"')
    assert list(data.notes) == [
        f"{tmp_path / 'm.tsv'}: 1 rows have a value in quotes, which stay in it; set data.quotes: double if they only "
        "enclose it"
    ]


@pytest.mark.parametrize(("name", "delimiter"), [("m.csv", ","), ("m.tsv", "\t")])
@pytest.mark.parametrize("last", [2, 5])
def test_quoted_value_that_swallows_rows_is_refused(tmp_path: Path, name: str, delimiter: str, last: int) -> None:
    texts = ["plain", '"Best', *["x"] * (last - 2), 'pie"', "plain"]
    (tmp_path / name).write_text(rows(texts, delimiter))
    with pytest.raises(
        DataError, match=rf"{name}, row 3: a quoted value extends to row {last + 2}, and rows 3 and 4 in it look like"
    ):
        read(tmp_path / name, quotes="double")
    assert len(read(tmp_path / name, quotes="none").splits["train"]) == len(texts)


def test_text_of_several_lines_is_one_row_and_noted(tmp_path: Path) -> None:
    texts = ["plain", '"soup, with\nnoodles, hot, red, and\n\nmore"', '"two\r\nlines"', "x"]
    (tmp_path / "m.csv").write_text(rows(texts), newline="")
    data = read(tmp_path / "m.csv")
    assert data.splits["train"].texts[1:3] == ("soup, with\nnoodles, hot, red, and\n\nmore", "two\r\nlines")
    (note,) = data.notes
    assert note.endswith("m.csv: 2 rows have a quoted value with line ends, the first in rows 3 to 6")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_unicode_with_a_mark_and_every_line_end_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "m.tsv"
    path.write_bytes(rows(["één", "日本", "x\u2028y"], "\t").replace("\n", end).encode(encoding))
    assert read(path).splits["train"].texts == ("één", "日本", "x\u2028y")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (rows(["x", "één"]).encode("cp1252"), r"UTF-8 has no such byte, in row \d+ or shortly after; .* got b'\\xe9'"),
        (
            rows(["x", "y"]).encode("utf-16-le"),
            "row 1: has a null character; expected text in UTF-8, or",
        ),
        (rows(["x", "a\0b"]).encode(), "row 3: has a null character"),
        (rows(["x", "y"], ";").encode(), "seem to be separated by ';': set data.delimiter to it"),
        (b"PK\x03\x04 and so on", "got a ZIP archive or an Excel workbook"),
        (b"\x1f\x8b and so on", "got a file compressed with gzip"),
        (b"PAR1 and so on", r"got a Parquet file; give it the suffix \.parquet"),
        (LFS_POINTER.encode(), "m.csv: is a Git LFS pointer; expected a CSV.*; run `git lfs pull`"),
        (
            b"image,text,label,split,text\na,b,c,train,d\n",
            "column 'text' is ambiguous; expected .*, got it 2 times",
        ),
        (rows(['"x"y', "z"]).encode(), "row 2: malformed quotes"),
        (rows(['"x', "z"]).encode(), "row 2: malformed quotes"),
        (rows(["x,y", "z"]).encode(), "row 2: wrong number of values; expected 4 as in the header, got 5"),
        (b"", "column 'image', 'text', 'label', 'split' is missing"),
    ],
)
def test_damaged_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "m.csv")


def test_other_delimiter_and_blanks_in_the_header_are_read(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(rows(["soup, hot", "y"], ";").replace("text;", " text ;"))
    assert read(tmp_path / "m.csv", delimiter=";").splits["train"].texts == ("soup, hot", "y")


def test_long_value_is_read_and_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.csv").write_text(rows(["word " * 2_000_000, "y"]))
    assert len(read(tmp_path / "m.csv").splits["train"].texts[0]) == 9_999_999
    monkeypatch.setattr("nas.data.readers.lines.MAX_LINE", 1000)
    for name in ("m.csv", "m.jsonl"):
        (tmp_path / name).write_bytes(rows(["x"]).encode() + b"x" * 5000)
        with pytest.raises(DataError, match=r"row \d: (is too long; expected a line of at most 1,000|not valid JSON)"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl", "m.json", "m.parquet"])
def test_special_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    with pytest.raises(DataError, match=f"{name}: cannot be read; expected a .*, got a named pipe"):
        read(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=f"{name}: cannot be read; .*, got a device"):
        read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=f"{name}: cannot be read; .*, got a folder"):
        read(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1" * 5000, "row 2: not valid JSON: Exceeds the limit"),
        ("[" * 100_000, "row 2: not valid JSON: nested too deeply"),
        ("{'a': 1}", "row 2: not valid JSON: Expecting property name"),
        ("[1]", r"row 2: not a JSON object; expected one JSON object per line, got \[1\]"),
        ('{"image": "a.png", "image": "b.png"}', "row 2: not valid JSON: key 'image' is given twice"),
        (
            '{"image": "a.png", "text": {"a": 1}, "label": "b", "split": "train"}',
            r"row 2: text is not .* got \{'a'",
        ),
    ],
)
def test_json_lines_name_the_row(tmp_path: Path, line: str, message: str) -> None:
    first = json.dumps({"image": "a.png", "text": "x", "label": "a", "split": "train"})
    for name in ("m.jsonl", "m.json"):
        lines(tmp_path / name, first, line)
        with pytest.raises(DataError, match=rf"{name}, {message}"):
            read(tmp_path / name)


@pytest.mark.parametrize("content", ["1" * 5000, "[" * 100_000, "{", "\ud800".encode("utf-8", "surrogatepass")])
def test_damaged_json_of_published_data_sets_is_named(tmp_path: Path, content: str | bytes) -> None:
    content = content.encode() if isinstance(content, str) else content
    mm_imdb(tmp_path / "films")
    snli_ve(tmp_path / "sentences")
    (tmp_path / "films" / "dataset" / "0001.json").write_bytes(content)
    (tmp_path / "sentences" / "snli_ve_dev.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"0001\.json: .*; expected a JSON object"):
        read_dataset(config_of("mm_imdb", tmp_path / "films"), ("train",))
    with pytest.raises(DataError, match=r"snli_ve_dev\.jsonl.*row 1.*; expected"):
        read_dataset(config_of("snli_ve", tmp_path / "sentences"), ("train",))


def test_list_of_objects_is_read(tmp_path: Path) -> None:
    values = [{"image": f"{name}.png", "text": "x", "label": name, "split": "train"} for name in "ab"]
    (tmp_path / "m.json").write_text(json.dumps(values, indent=1))
    assert read(tmp_path / "m.json").splits["train"].images == ("a.png", "b.png")
    (tmp_path / "m.json").write_text(json.dumps([*values, 5]))
    with pytest.raises(DataError, match=r"m\.json, entry 3: not a JSON object; expected keys and values, got 5"):
        read(tmp_path / "m.json")


def test_truncated_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    parquet.write_table(Table.from_pylist([{"image": "a", "text": "b" * 1000, "label": "c", "split": "train"}]), path)
    content = path.read_bytes()
    for damaged in (content[:-20], content[:40] + bytes(100) + content[140:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"m\.parquet.*: cannot be read|m\.parquet: the manifest cannot be read"):
            read(path)


def test_ids_that_lead_out_of_the_data_set_are_refused(tmp_path: Path) -> None:
    mm_imdb(tmp_path)
    for number in ("../0001", {"a": 1}, ""):
        (tmp_path / "split.json").write_text(json.dumps({"train": ["0000", number], "dev": [], "test": []}))
        with pytest.raises(DataError, match=r"split\.json: malformed id under train; expected the number"):
            read_dataset(config_of("mm_imdb", tmp_path), ("train",))
