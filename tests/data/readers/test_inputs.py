"""The inputs of a prediction: every reader yields its rows in their order, without labels and splits."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from nas.common.errors import DataError
from nas.data.inputs import Input
from nas.data.readers.base import Reader, load_reader
from tests.data.readers.test_hf_dataset import part
from tests.data.readers.test_parquet_files import hub_table
from tests.support.folders import config_of, film, food101, lines, mm_imdb, sentence, snli_ve

TEXTS = ["a", "b", "c"]


def table(path: Path, *rows: str) -> Reader:
    """Write a table and return its reader."""
    lines(path, *rows)
    return reader_of("manifest", path)


def reader_of(reader: str, place: Path, **values: Any) -> Reader:
    return load_reader(config_of(reader, place, **values))


def test_rows_of_a_table_keep_their_order_and_line_whatever_their_split(tmp_path: Path) -> None:
    rows = ["1.png,b,test,x", "", '"2.png","a\nb",train,y', "./3.png,c,odd,z"]
    reader = table(tmp_path / "m.csv", "image,text,split,id", *rows)
    assert reader.has_column("id") and not reader.has_column("label")
    assert list(reader.inputs("id")) == [
        Input(2, "1.png", "b", "x"),
        Input(4, "2.png", "a\nb", "y"),
        Input(6, "3.png", "c", "z"),
    ]
    assert [entry.id for entry in reader.inputs(None)] == [""] * 3


def test_rows_that_cannot_be_used_have_an_error_and_a_file_that_cannot_be_read_further_ends(tmp_path: Path) -> None:
    rows = ["1.png,a,b", ",a", "2.png,b", '3.png,"c']
    found = table(tmp_path / "m.csv", "image,text", *rows).inputs(None)
    long, empty, good = (next(found).error for _ in range(3))
    assert "row 2: wrong number of values" in long and "row 3: image is empty" in empty and good == ""
    with pytest.raises(DataError, match="row 5: malformed quotes"):
        next(found)


def test_values_that_are_no_text_are_errors_of_their_row(tmp_path: Path) -> None:
    rows = [{"image": "1.png", "text": "\ud800", "id": 7}, {"image": ["x"], "text": "", "id": "\udfff"}]
    first, second = table(tmp_path / "m.jsonl", *map(json.dumps, rows)).inputs("id")
    assert first.id == "7" and "row 1: text" in first.error and "unpaired surrogate" in first.error
    assert second.id == "" and "row 2: id" in second.error


def test_images_inside_of_parquet_files_are_named_by_their_row(tmp_path: Path) -> None:
    hub_table(tmp_path / "data" / "train-00000-of-00002.parquet", 2, id=["x", "y"])
    hub_table(tmp_path / "data" / "train-00001-of-00002.parquet", 1, first=2, id=["z"])
    reader = reader_of("datasets", tmp_path / "data")
    images = reader.open_images()
    assert reader.has_column("id") and not reader.has_column("split")
    found = list(reader.inputs("id"))
    assert [(entry.number, entry.text, entry.id) for entry in found] == [
        (1, "text 0", "x"),
        (2, "text 1", "y"),
        (3, "text 2", "z"),
    ]
    assert [images.open(entry.image).getpixel((0, 0)) for entry in found] == [(red, 0, 0) for red in range(3)]
    single = reader_of("manifest", tmp_path / "data" / "train-00001-of-00002.parquet")
    (entry,) = single.inputs(None)
    assert single.open_images().open(entry.image).getpixel((0, 0)) == (2, 0, 0)


def test_saved_data_set_needs_no_labels(tmp_path: Path) -> None:
    parts = {name: part([0] * count).remove_columns("label") for name, count in (("train", 2), ("test", 1))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    reader = reader_of("datasets", tmp_path / "saved")
    found = list(reader.inputs(None))
    assert [(entry.number, entry.text) for entry in found] == [
        (1, "text 0 of 2"),
        (2, "text 1 of 2"),
        (3, "text 0 of 1"),
    ]
    images = reader.open_images()
    assert [images.open(entry.image).getpixel((0, 0)) for entry in found] == [(0, 0, 0), (10, 0, 0), (0, 0, 0)]
    with pytest.raises(DataError, match="column 'name' is missing"):
        next(reader.inputs("name"))


def test_image_folder_names_images_from_its_root(tmp_path: Path) -> None:
    lines(tmp_path / "metadata.csv", "file_name,text", "x.png,a", "/y.png,b")
    found = list(reader_of("image_folder", tmp_path).inputs(None))
    assert found[0] == Input(2, "x.png", "a") and "row 3: file_name is an absolute path" in found[1].error
    for split in ("train", "val"):
        lines(tmp_path / "two" / split / "metadata.csv", "file_name,text", "x.png,a")
    found = list(reader_of("image_folder", tmp_path / "two").inputs(None))
    assert found == [Input(1, "train/x.png", "a"), Input(2, "val/x.png", "a")]


def test_sentences_and_films_that_training_leaves_out_are_predicted(tmp_path: Path) -> None:
    snli_ve(tmp_path / "snli")
    for name in ("train", "dev"):
        (tmp_path / "snli" / f"snli_ve_{name}.jsonl").unlink()
    lines(
        tmp_path / "snli" / "snli_ve_test.jsonl", sentence("13.jpg", "so?", "-"), '{"Flickr30K_ID": 4, "sentence2": ""}'
    )
    found = list(reader_of("snli_ve", tmp_path / "snli").inputs(None))
    assert found == [Input(1, "13.jpg", "so?"), Input(2, "4.jpg", "")]
    mm_imdb(tmp_path / "films")
    film(tmp_path / "films", "9", genres=[], plot=[])
    lines(tmp_path / "films" / "split.json", json.dumps({"test": ["9", "none"]}))
    first, second = reader_of("mm_imdb", tmp_path / "films").inputs(None)
    assert first == Input(1, "9.jpeg", "") and second.error


def test_other_readers_yield_their_samples(tmp_path: Path) -> None:
    food101(tmp_path)
    reader = reader_of("food101", tmp_path)
    samples = [sample for split in reader.find_samples().splits.values() for sample in split]
    found = list(reader.inputs("id"))
    assert [(entry.image, entry.text) for entry in found] == [(sample.image, sample.text) for sample in samples]
    assert [entry.number for entry in found] == list(range(1, len(samples) + 1)) and not reader.has_column("id")
