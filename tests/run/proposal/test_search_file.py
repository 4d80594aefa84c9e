"""The command `init`: from a table to a search file that loads."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.cli import main
from nas.config.load import load_arms
from nas.config.schema import Config
from nas.data.dataset import read_dataset
from nas.data.images import open_images
from nas.data.samples import SPLITS
from nas.run.proposal import images as places

KINDS = ("animal", "food", "place")


def write_images(folder: Path, count: int, *, are_drawings: bool = True) -> list[str]:
    """Write images, uniform ones or noise; return their names."""
    folder.mkdir(parents=True)
    generator, names = np.random.default_rng(0), [f"{index:03}.png" for index in range(count)]
    for name in names:
        size = (1, 1, 3) if are_drawings else (24, 24, 3)
        pixels = generator.integers(256, size=size, dtype=np.uint8)
        Image.fromarray(np.broadcast_to(pixels, (24, 24, 3)).copy()).save(folder / name)
    return names


def write_table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table with columns of its own names and without splits, beside its folder of photographs."""
    names = write_images(tmp_path / "photos", 30, are_drawings=False)
    rows = [
        {"file": name, "caption": f"the picture of a thing number {index}", "category": KINDS[index % 3]}
        for index, name in enumerate(names)
    ]
    monkeypatch.chdir(tmp_path)
    return write_table(tmp_path / "products.csv", rows)


def proposed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, Config]:
    """Return the text that `init` prints, and the configuration that it is."""
    assert main(["init", *words]) == 0, capsys.readouterr().err
    text = capsys.readouterr().out
    Path("mine.yaml").write_text(text)
    return text, load_arms(Path("mine.yaml"))[0].config


def counts(config: Config) -> list[int]:
    return [len(samples) for samples in read_dataset(config.data, SPLITS).splits.values()]


def test_search_file_of_a_table_loads_and_its_data_can_be_read(
    products: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, config = proposed(capsys, "products.csv")
    assert counts(config) == [18, 6, 6], "splits are held out"
    assert config.data.columns.image == "file" and config.data.columns.split is None
    assert "photographs" in text and "English" in text
    assert "30 train samples; 3 classes, 10 samples each; texts of 7 words" in text
    assert len(text.splitlines()) <= 15 and all(len(line) <= 130 for line in text.splitlines())


def test_options_name_place_and_columns(products: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, config = proposed(
        capsys, "products.csv", "--images", "photos", "--image", "file", "--text", "caption", "--label", "category"
    )
    assert config.data.images == str(products.parent / "photos")


def test_place_is_corrected_where_paths_repeat_it(products: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(products.open()))
    write_table(products, [{**row, "file": f"photos/{row['file']}"} for row in rows])
    _, config = proposed(capsys, "products.csv", "--images", "photos")
    assert config.data.images == str(products.parent)
    assert sum(counts(config)) == 30


def test_other_separators_and_several_labels_are_found(products: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(products.open()))
    several = [
        {**row, "category": "food|place" if index % 4 == 0 else row["category"]} for index, row in enumerate(rows)
    ]
    write_table(products, several, delimiter=";")
    text, config = proposed(capsys, "products.csv")
    assert config.data.has_several_labels and config.data.delimiter == ";" and config.data.label_separator == "|"
    assert sum(counts(config)) == 30 and "3 classes" in text


def test_json_lines_with_splits_need_no_others(products: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(products.open()))
    part = ("train", "train", "train", "dev", "test")
    lines = [json.dumps({**row, "split": part[index // 3 % 5]}) for index, row in enumerate(rows)]
    Path("products.jsonl").write_text("\n".join(lines))
    text, config = proposed(capsys, "products.jsonl")
    assert "held_out" not in text and counts(config) == [18, 6, 6]


def test_table_without_labels_becomes_a_search_for_retrieval(
    products: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(csv.DictReader(products.open()))
    write_table(products, [{"file": row["file"], "caption": row["caption"]} for row in rows])
    text, config = proposed(capsys, "products.csv")
    assert config.data.is_retrieval and config.family == "vse" and config.search.objective == "mean_recall"
    assert config.data.columns.label is None and counts(config) == [18, 6, 6]
    assert "30 train pairs of 30 pictures, without a column of labels" in text and "stratified" not in text
    assert len(text.splitlines()) <= 15 and all(len(line) <= 130 for line in text.splitlines()[1:])


def test_missing_images_are_an_error_that_names_where_was_looked(
    products: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for image in (products.parent / "photos").iterdir():
        image.unlink()
    assert main(["init", "products.csv"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --images: the images are not found; expected a folder or a ZIP file with '000.png'")
    assert "photos" in error and "Traceback" not in error


def test_existing_file_is_not_replaced(products: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "products.csv", "--output", "mine.yaml"]) == 0
    before = Path("mine.yaml").read_text()
    assert main(["init", "products.csv", "--output", "mine.yaml"]) == 2
    assert "--output: mine.yaml exists" in capsys.readouterr().err
    assert Path("mine.yaml").read_text() == before


def test_search_file_in_another_folder_has_paths_that_work_there(products: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert main(["init", "products.csv", "--output", "other/mine.yaml"]) == 0
    assert sum(counts(load_arms(Path("other/mine.yaml"))[0].config)) == 30


@pytest.mark.parametrize("are_drawings", [True, False])
def test_drawings_and_photographs_are_distinguished(tmp_path: Path, are_drawings: bool) -> None:
    names = write_images(tmp_path / "images", 5, are_drawings=are_drawings)
    assert places.are_drawings(open_images(tmp_path / "images"), [*names, "missing.png"]) == are_drawings
