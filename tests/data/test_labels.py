"""Labels and names that differ in what readers hardly see."""

import unicodedata
from pathlib import Path

import pytest

from nas.common.errors import DataError
from nas.data.dataset import open_dataset_images, read_dataset
from tests.support.folders import config_of, food101, lines, picture

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_labels_in_two_forms_of_unicode_are_one_class_and_noted(tmp_path: Path) -> None:
    rows = [f"1.png,x,{NFC},train", "2.png,x,tea,train", f"3.png,x,{NFD},validation"]
    lines(tmp_path / "m.csv", "image,text,label,split", *rows)
    config = config_of("manifest", tmp_path / "m.csv")
    data = read_dataset(config, ("train", "validation"), compares_images=False)
    assert data.class_names == (NFC, "tea") and data.splits["validation"].labels.tolist() == [0]
    (note,) = data.notes
    assert note.endswith(f"labels in another form of Unicode are taken in composed form (NFC): {NFC}")
    trained = read_dataset(config, ("validation",), class_names=("tea", NFD), compares_images=False)
    assert trained.splits["validation"].labels.tolist() == [1]


def test_labels_that_look_alike_are_noted_and_suggested(tmp_path: Path) -> None:
    lines(tmp_path / "m.csv", "image,text,label,split", "1.png,x,Tea,train", "2.png,x,tea,train", "3.png,x,pie,train")
    config = config_of("manifest", tmp_path / "m.csv")
    data = read_dataset(config, ("train",), compares_images=False)
    assert data.class_names == ("Tea", "pie", "tea")
    assert data.notes[0].endswith(
        "the labels 'Tea' and 'tea' differ only in case, blanks or invisible characters, and are different classes"
    )
    with pytest.raises(DataError, match=r"row 4: unknown label 'pie'; expected .*; is 'Pie\\u200b' meant\?"):
        read_dataset(config, ("train",), class_names=("Tea", "tea", "Pie\u200b"), compares_images=False)


def test_names_in_another_form_or_with_backslashes_are_one_image(tmp_path: Path) -> None:
    picture(tmp_path / "a" / f"{NFD}.png")
    rows = [f"a/{NFC}.png,x,p,train", f"a\\{NFD}.png,y,q,train"]
    lines(tmp_path / "m.csv", "image,text,label,split", *rows)
    config = config_of("manifest", tmp_path / "m.csv")
    data = read_dataset(config, ("train",))
    assert data.splits["train"].images == (f"a/{NFD}.png",) * 2
    assert open_dataset_images(config).find_unreadable(data.splits["train"].images) == []
    assert "2 image names are spelt differently in" in data.notes[0]


def test_folders_of_classes_in_another_form_are_matched(tmp_path: Path) -> None:
    food101(tmp_path)
    for split in ("train", "test"):
        (tmp_path / "images" / split / "pho").rename(tmp_path / "images" / split / unicodedata.normalize("NFD", "phở"))
        titles = tmp_path / "texts" / f"{split}_titles.csv"
        titles.write_text(titles.read_text().replace(",pho\n", f",{unicodedata.normalize('NFC', 'phở')}\n"))
    data = read_dataset(config_of("food101", tmp_path, held_out={"validation": 3}), ("train", "validation", "test"))
    assert data.left_out == {} and len(data.splits["test"]) == 3 and "phở" in data.class_names
    images = open_dataset_images(config_of("food101", tmp_path))
    assert images.find_unreadable(data.splits["test"].images) == []
