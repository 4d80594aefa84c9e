"""Predicting a table: every row in order, in every form, with errors kept or not, and resumed after a stop."""

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

from nas.cli import main
from nas.common.errors import DataError
from nas.run.exported_model import ExportedModel
from nas.run.prediction import batches
from nas.run.prediction.partial import PartialTable
from tests.support.project import Project

Write = Callable[..., Path]
Predict = Callable[..., int]


@pytest.fixture
def write(project: Project, tmp_path: Path) -> Write:
    """Writes a table of the samples of the project without labels and splits, and returns its path."""

    def build(name: str = "new.csv", changes: dict[int, dict[str, str]] | None = None, **columns: list[str]) -> Path:
        with project.manifest.open(newline="") as file:
            rows = [{"image": row["image"], "text": row["text"]} for row in csv.DictReader(file)]
        for index, values in (changes or {}).items():
            rows[index] |= values
        for column, cells in columns.items():
            rows = [row | {column: cell} for row, cell in zip(rows, cells, strict=True)]
        path = tmp_path / name
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return path

    return build


@pytest.fixture
def predict(project: Project, model: Path) -> Predict:
    """Runs the command and returns its exit status."""

    def run(table: Path, output: Path, *words: str, images: Path | None = None) -> int:
        arguments = ["predict", str(model), "--data", str(table), "--output", str(output), *words]
        return main([*arguments, "--images", str(images or project.images)])

    return run


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def names_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def expected(project: Project, exported: ExportedModel) -> list[tuple[str, float]]:
    """The class and probability of every sample, each computed alone."""
    with project.manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [exported.predict([project.images / row["image"]], [row["text"]])[0][0] for row in rows]
    return [(entry.class_name, entry.probability) for entry in found]


def test_every_row_is_predicted_in_the_order_of_the_input_without_labels(
    write: Write, predict: Predict, expected: list[tuple[str, float]], tmp_path: Path
) -> None:
    assert predict(write(), tmp_path / "out.csv", "--batch-size", "3") == 0
    rows = read(tmp_path / "out.csv")
    assert list(rows[0]) == ["row", "prediction", "probability"]
    assert [row["row"] for row in rows] == [str(number) for number in range(2, 62)]  # as editors count
    assert [row["prediction"] for row in rows] == [name for name, _ in expected]
    assert [float(row["probability"]) for row in rows] == pytest.approx([value for _, value in expected], abs=1e-5)
    assert names_of(tmp_path) == {"new.csv", "out.csv"}


def test_all_forms_hold_the_same_table(write: Write, predict: Predict, tmp_path: Path) -> None:
    table, words = write(), ("--top", "2", "--probabilities", "--on-error", "keep")
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        assert predict(table, tmp_path / f"out.{suffix}", *words) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == lines
    as_text = [{key: "" if value is None else str(value) for key, value in line.items()} for line in lines]
    assert read(tmp_path / "out.csv") == as_text
    assert (tmp_path / "out.tsv").read_text() == (tmp_path / "out.csv").read_text().replace(",", "\t")
    first = lines[0]
    assert list(first) == [
        *("row", "prediction", "probability", "top_1", "top_1_probability", "top_2", "top_2_probability"),
        *("probability_blue", "probability_green", "probability_red", "error"),
    ]
    assert first["prediction"] == first["top_1"] and first["probability"] == first[f"probability_{first['top_1']}"]
    assert sum(first[f"probability_{name}"] for name in ("blue", "green", "red")) == pytest.approx(1, abs=1e-5)


def test_rows_are_named_by_the_column_of_ids(write: Write, predict: Predict, tmp_path: Path) -> None:
    names = [f"=sample {index}" for index in range(60)]
    table = write(id=names)
    assert predict(table, tmp_path / "out.csv") == 0
    assert [row["id"] for row in read(tmp_path / "out.csv")] == names
    assert predict(table, tmp_path / "other.csv", "--id-column", "text", "--spreadsheet") == 0
    assert [row["id"] for row in read(tmp_path / "other.csv")] == [row["text"] for row in read(table)]


def test_cells_that_a_spreadsheet_takes_for_formulas_are_prefixed_on_request(
    write: Write, predict: Predict, tmp_path: Path
) -> None:
    starts = ["=1", "+1", "-1", "@x", "1=", "'1"]
    table = write(id=[*starts, *(f"{index}" for index in range(54))])
    assert predict(table, tmp_path / "plain.csv") == 0
    assert predict(table, tmp_path / "safe.csv", "--spreadsheet") == 0
    assert [row["id"] for row in read(tmp_path / "plain.csv")[:6]] == starts
    assert [row["id"] for row in read(tmp_path / "safe.csv")[:6]] == ["'=1", "'+1", "'-1", "'@x", "1=", "'1"]


def test_row_that_cannot_be_predicted_stops_before_the_model_is_loaded(
    write: Write,
    predict: Predict,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("nas.run.prediction.command.open_exported")
    table = write(changes={40: {"image": "none.png"}})
    assert predict(table, tmp_path / "out.csv") == 2
    error = capsys.readouterr().err
    assert re.search(r"new\.csv, row 42: image 'none\.png': is missing; expected .*; --on-error keep", error)
    assert names_of(tmp_path) == {"new.csv"}


def test_image_that_turns_out_to_be_damaged_stops_with_its_row(
    write: Write, predict: Predict, project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = Path(shutil.copytree(project.images, tmp_path / "images"))
    (images / "007.png").write_bytes(b"no picture")
    assert predict(write(), tmp_path / "out.csv", images=images) == 2
    assert "new.csv, row 9: " in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_rows_with_errors_are_kept_without_prediction(
    write: Write, predict: Predict, expected: list[tuple[str, float]], tmp_path: Path
) -> None:
    table = write(changes={3: {"image": "none.png"}, 5: {"image": ""}}, id=[f"n{index}" for index in range(60)])
    lines = table.read_text().splitlines()
    lines[21] += ",one,more"
    table.write_text("\n".join(lines))
    assert predict(table, tmp_path / "out.csv", "--on-error", "keep", "--top", "1") == 3
    rows = read(tmp_path / "out.csv")
    assert len(rows) == 60
    for index, problem in ((3, "is missing"), (5, "image is empty"), (20, "wrong number of values")):
        assert problem in rows[index].pop("error")
        name = "" if index == 20 else f"n{index}"
        assert rows[index] == {"id": name} | dict.fromkeys(
            ("prediction", "probability", "top_1", "top_1_probability"), ""
        )
    good = [index for index in range(60) if index not in (3, 5, 20)]
    assert [rows[index]["prediction"] for index in good] == [expected[index][0] for index in good]
    assert {rows[index]["error"] for index in good} == {""}


def test_malformed_lines_of_json_are_kept(project: Project, predict: Predict, tmp_path: Path) -> None:
    lines = ['{"image": "000.png", "text": "cat"}', "{", '{"image": "001.png"}', "", '{"image": 1, "text": []}', "5"]
    (tmp_path / "new.jsonl").write_text("\n".join(lines))
    assert predict(tmp_path / "new.jsonl", tmp_path / "out.jsonl", "--on-error", "keep") == 3
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == [1, 2, 3, 5, 6]
    problems = [None, "not valid JSON", "key 'text' is missing", "text is not text", "not a JSON object"]
    for row, problem in zip(rows, problems, strict=True):
        assert row["error"] is None if problem is None else problem in row["error"]


@pytest.mark.parametrize(
    ("name", "words", "problem"),
    [
        ("out.xlsx", (), "unknown form; expected a suffix of .csv"),
        ("new.csv", ("--overwrite",), "is the input"),
        ("old.csv", (), "exists; expected a new file, or --overwrite"),
        ("folder.csv", ("--overwrite",), "is a folder"),
        ("out.jsonl", ("--spreadsheet",), "--spreadsheet: not allowed with .jsonl"),
        ("out.csv", ("--id-column", "name"), "column 'name' is missing"),
        (
            "out.csv",
            ("--text-column", "caption"),
            "column 'caption' is missing; expected it in the header, got 'image, text'",
        ),
        ("out.csv", ("--json",), "predict: expected --image and --text for one sample"),
    ],
)
def test_mistake_is_found_at_once_and_changes_nothing(
    name: str, words: tuple[str, ...], problem: str, write: Write, predict: Predict, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "old.csv").write_text("kept")
    (tmp_path / "folder.csv").mkdir()
    table = write()
    before = table.read_text()
    assert predict(table, tmp_path / name, *words) == 2
    assert problem in capsys.readouterr().err
    assert table.read_text() == before and (tmp_path / "old.csv").read_text() == "kept"
    assert names_of(tmp_path) == {"new.csv", "old.csv", "folder.csv"}


def test_existing_output_is_replaced_on_request(write: Write, predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    assert predict(write(), tmp_path / "out.csv", "--overwrite") == 0
    assert len(read(tmp_path / "out.csv")) == 60


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are computed."""
    sizes: list[int] = []
    forward = ExportedModel._forward

    def counted(self: ExportedModel, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return forward(self, pixels, ids, mask)

    monkeypatch.setattr(ExportedModel, "_forward", counted)
    monkeypatch.setattr("nas.run.prediction.table._WRITTEN_ROWS", 4)
    monkeypatch.setattr(batches, "_WINDOW_BATCHES", 1)
    return sizes


def stop_after(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next call end as if it was killed after it had made a number of rows durable."""
    append = PartialTable.append

    def killed(self: PartialTable, content: bytes, *, rows: int, errors: int) -> None:
        append(self, content, rows=rows, errors=errors)
        if self.progress.rows == limit:
            self.save()
            append(self, content, rows=rows, errors=errors)  # is not durable
            self._file.flush()
            monkeypatch.setattr(PartialTable, "append", append)
            monkeypatch.setattr(PartialTable, "save", lambda self: None)  # a killed process saves nothing
            raise DataError("killed")

    limit = rows
    monkeypatch.setattr(PartialTable, "append", killed)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_killed_prediction_goes_on_where_it_was(
    name: str, write: Write, predict: Predict, computed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, words = write(), ("--batch-size", "4")
    assert predict(table, tmp_path / f"whole_{name}", *words) == 0
    with monkeypatch.context() as patch:
        stop_after(20, patch)
        assert predict(table, tmp_path / name, *words) == 2
    assert names_of(tmp_path) == {"new.csv", f"whole_{name}", f".{name}.partial", f".{name}.partial.json"}
    computed.clear()
    assert predict(table, tmp_path / name, *words) == 0
    assert sum(computed) == 40
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole_{name}").read_bytes()
    assert names_of(tmp_path) == {"new.csv", f"whole_{name}", name}


@pytest.mark.parametrize("change", ["option", "table", "image", "model", "damage"])
def test_rows_are_computed_again_where_anything_has_changed(
    change: str,
    write: Write,
    project: Project,
    model: Path,
    computed: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = Path(shutil.copytree(project.images, tmp_path / "images"))
    table, output = write(), tmp_path / "out.csv"
    words = ["predict", str(model), "--data", str(table), "--images", str(images), "--batch-size", "4"]
    with monkeypatch.context() as patch:
        stop_after(20, patch)
        assert main([*words, "--output", str(output)]) == 2
    if change == "option":
        words += ["--probabilities"]
    elif change == "table":
        table = write(changes={59: {"text": "fox"}})
    elif change == "image":
        os.utime(images / "000.png", ns=(1, 1))
    elif change == "model":
        words[1] = str(shutil.copytree(model, tmp_path / "model"))
        (tmp_path / "model" / "checksums.json").unlink()
    elif change == "damage":
        (tmp_path / ".out.csv.partial").write_text("row")
    computed.clear()
    assert main([*words, "--output", str(output)]) == 0
    assert sum(computed) == len(read(output)) == 60
    assert ("starts from the first row" in capsys.readouterr().out) == (change != "damage")


def test_two_calls_do_not_write_one_output(
    write: Write, predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with PartialTable(tmp_path / "out.csv", {}, b""):
        assert predict(write(), tmp_path / "out.csv") == 2
    assert "another process is writing it" in capsys.readouterr().err


def test_one_sample_is_printed_as_json(project: Project, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", str(model), "--image", str(project.images / "000.png"), "--text", "cat"]
    assert main([*words, "--json", "--top", "2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer) == ["prediction", "probabilities"]
    assert len(answer["probabilities"]) == 2 and answer["prediction"] == next(iter(answer["probabilities"]))
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == f"{answer['prediction']}: {answer['probabilities'][answer['prediction']]:.4f}" and len(lines) == 3
    )
