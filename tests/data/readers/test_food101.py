from collections import Counter
from pathlib import Path

import pytest

from nas.common.errors import DataError
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.summary import summarize
from tests.support.folders import config_of, food101, lines, picture

ALL = ("train", "validation", "test")
HELD_OUT = {"validation": 3}


def test_titles_may_have_commas_and_quotes(tmp_path: Path) -> None:
    food101(tmp_path)
    config = config_of("food101", tmp_path, held_out=HELD_OUT)
    data = read_dataset(config, ALL)
    assert data.class_names == ("apple_pie", "churros", "pho")
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 9, "validation": 3, "test": 3}
    assert data.splits["test"].images[1] == "test/churros/churros_test0.jpg"
    assert data.splits["test"].texts[1] == 'churros, "the best" 0'
    assert data.splits["test"].labels.tolist() == [0, 1, 2]
    assert open_dataset_images(config).find_unreadable(data.splits["train"].images) == []
    assert data.left_out == {}


def test_held_out_validation_is_stratified_and_reproducible(tmp_path: Path) -> None:
    food101(tmp_path)
    config = config_of("food101", tmp_path, held_out=HELD_OUT)
    first, second = read_dataset(config, ALL), read_dataset(config, ALL)
    assert Counter(first.splits["validation"].labels.tolist()) == {0: 1, 1: 1, 2: 1}
    assert first.splits["validation"].images == second.splits["validation"].images
    assert not set(first.splits["validation"].images) & set(first.splits["train"].images)
    other = read_dataset(config_of("food101", tmp_path, held_out=HELD_OUT | {"seed": 1}), ALL)
    assert other.splits["validation"].images != first.splits["validation"].images


def test_5000_images_are_held_out_by_default(tmp_path: Path) -> None:
    food101(tmp_path)
    with pytest.raises(
        DataError, match=r"data\.held_out\.validation takes too many .*; expected fewer than 12, got 5000"
    ):
        read_dataset(config_of("food101", tmp_path), ALL)


@pytest.mark.parametrize("ending", [".txt", ".jpg.txt"])
def test_page_texts_replace_titles(tmp_path: Path, ending: str) -> None:
    food101(tmp_path)
    for path in tmp_path.glob("texts_txt/*/*.txt"):
        path.rename(path.with_name(path.name.removesuffix(".txt") + ending))
    data = read_dataset(config_of("food101", tmp_path, texts="pages", held_out=HELD_OUT), ALL)
    assert data.splits["test"].texts == tuple(f"all about {dish} page 0" for dish in data.class_names)
    assert len(data.splits["train"]) == 9


@pytest.mark.parametrize("texts", ["titles", "pages"])
def test_images_and_texts_without_a_partner_are_counted_and_left_out(tmp_path: Path, texts: str) -> None:
    food101(tmp_path)
    picture(tmp_path / "images" / "train" / "pho" / "pho_alone.jpg")
    title = tmp_path / "texts" / "test_titles.csv"
    title.write_text(title.read_text() + "gone.jpg,a title,pho\n" + "pho_empty.jpg,,pho\n")
    picture(tmp_path / "images" / "test" / "pho" / "pho_empty.jpg")
    lines(tmp_path / "texts_txt" / "pho" / "gone.txt", "a page")
    lines(tmp_path / "texts_txt" / "pho" / "pho_empty.txt", " ")
    data = read_dataset(config_of("food101", tmp_path, texts=texts, held_out=HELD_OUT), ALL)
    assert data.left_out == {"images without text": 2, "texts without image": 1}
    assert summarize(data)[-1] == "left out: 2 images without text, 1 texts without image"
    assert sum(map(len, data.splits.values())) == 15


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "pho_1.jpg,only two",
            r"train_titles\.csv, row 1: too few values; expected image name, title, class, got 'pho_1",
        ),
        ("pho_1.jpg,a title,soup", r"train_titles\.csv, row 1: class 'soup' has no folder of images"),
    ],
)
def test_malformed_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    food101(tmp_path, {"train": [row]})
    with pytest.raises(DataError, match=message):
        read_dataset(config_of("food101", tmp_path), ALL)


def test_rows_may_be_quoted_as_a_whole(tmp_path: Path) -> None:
    dishes = ("apple_pie", "churros", "pho")
    food101(tmp_path, {"test": [f'"{dish}_test0.jpg", "one, ""two""", "{dish}"' for dish in dishes]})
    data = read_dataset(config_of("food101", tmp_path, held_out=HELD_OUT), ALL)
    assert data.splits["test"].texts == ('one, "two"',) * 3 and data.left_out == {}


def test_titles_with_commas_need_no_quotes(tmp_path: Path) -> None:
    food101(tmp_path, {"test": [f"{dish}_test0.jpg,one, two,{dish}" for dish in ("apple_pie", "churros", "pho")]})
    data = read_dataset(config_of("food101", tmp_path, held_out=HELD_OUT), ALL)
    assert set(data.splits["test"].texts) == {"one, two"}


@pytest.mark.parametrize("missing", ["images/test", "texts/train_titles.csv"])
def test_missing_file_or_folder_is_named(tmp_path: Path, missing: str) -> None:
    food101(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"{missing}: (the folder )?cannot be read"):
        read_dataset(config_of("food101", tmp_path), ALL)


def test_title_with_only_an_opening_quote_is_one_title(tmp_path: Path) -> None:
    rows = [
        'apple_pie_test0.jpg,"Best pie ever,apple_pie',
        "churros_test0.jpg,plain,churros",
        'pho_test0.jpg,so "good",pho',
    ]
    food101(tmp_path, {"test": rows})
    data = read_dataset(config_of("food101", tmp_path, held_out=HELD_OUT), ALL)
    assert data.splits["test"].texts == ('"Best pie ever', "plain", 'so "good"')


def test_existing_split_is_read_without_holding_out_others(tmp_path: Path) -> None:
    food101(tmp_path)
    data = read_dataset(config_of("food101", tmp_path), ("test",), class_names=("apple_pie", "churros", "pho"))
    assert len(data.splits["test"]) == 3


def test_copied_image_in_another_split_is_found(tmp_path: Path) -> None:
    food101(tmp_path)
    images, titles = tmp_path / "images", tmp_path / "texts"
    copied = (images / "train" / "pho" / "pho_train2.jpg").read_bytes()
    (images / "test" / "pho" / "pho_again.jpg").write_bytes(copied)
    title = (titles / "test_titles.csv").read_text()
    lines(titles / "test_titles.csv", *title.splitlines(), 'pho_again.jpg,"pho, ""the best"" 2",pho')
    with pytest.raises(
        DataError, match=r"1 sample\(s\) are in more than one split; .*, got test/pho/pho_again\.jpg with the same text"
    ):
        read_dataset(config_of("food101", tmp_path, held_out=HELD_OUT), ALL)


def test_class_missing_in_train_is_an_unknown_label(tmp_path: Path) -> None:
    food101(tmp_path)
    picture(tmp_path / "images" / "test" / "aple_pie" / "aple_pie_0.jpg")
    titles = tmp_path / "texts" / "test_titles.csv"
    lines(titles, *titles.read_text().splitlines(), "aple_pie_0.jpg,a title,aple_pie")
    with pytest.raises(
        DataError, match=r"test_titles\.csv, row 4: unknown label 'aple_pie'; expected one of the 3 classes"
    ):
        read_dataset(config_of("food101", tmp_path, held_out=HELD_OUT), ALL)
