import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.common.errors import DataError
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.readers.mm_imdb import GENRES
from nas.data.summary import summarize
from tests.support.folders import config_of, film, lines, mm_imdb

ALL = ("train", "validation", "test")


def add_to_train(root: Path, number: str, **values: Any) -> None:
    film(root, number, **values)
    splits = json.loads((root / "split.json").read_text())
    splits["train"].append(number)
    lines(root / "split.json", json.dumps(splits))


def test_films_have_their_longest_plot_and_all_their_genres(tmp_path: Path) -> None:
    mm_imdb(tmp_path)
    config = config_of("mm_imdb", tmp_path)
    data = read_dataset(config, ALL)
    assert data.class_names == GENRES and len(GENRES) == 23
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 4, "validation": 1, "test": 1}
    train = data.splits["train"]
    assert train.texts[2] == "a much longer plot of 0002" and train.images[2] == "0002.jpeg"
    assert train.labels.dtype == np.float32 and train.labels.shape == (4, 23)
    assert [GENRES[index] for index in np.flatnonzero(train.labels[2])] == ["Film-Noir", "War"]
    assert open_dataset_images(config).find_unreadable(train.images) == []
    assert "1.50 labels per sample" in summarize(data)[0]


def test_films_with_rare_genres_or_without_plot_are_counted_and_left_out(tmp_path: Path) -> None:
    mm_imdb(tmp_path)
    for number, genres in enumerate((["News", "Drama"], ["Adult"], ["Reality-TV"], ["Talk-Show", "Comedy"], ["News"])):
        add_to_train(tmp_path, f"1{number}", genres=genres)
    add_to_train(tmp_path, "20", plot=[])
    add_to_train(tmp_path, "21", genres=[])
    add_to_train(tmp_path, "22", plot=None)
    add_to_train(tmp_path, "23", genres=None)
    data = read_dataset(config_of("mm_imdb", tmp_path), ALL)
    assert len(data.splits["train"]) == 4
    assert data.left_out == {
        "films with News": 2,
        "films with Adult": 1,
        "films with Reality-TV": 1,
        "films with Talk-Show": 1,
        "films without plot": 2,
        "films without genre": 2,
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"genres": ["Drama", "Opera"]}, r"0001\.json: unknown genre 'Opera'; expected one of Action, "),
        ({"genres": "Drama"}, r"0001\.json: malformed genres; expected a list of strings, got 'Drama'"),
        ({"plot": [1]}, r"0001\.json: malformed plot; expected a list of strings, got \[1\]"),
    ],
)
def test_unusable_film_is_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    mm_imdb(tmp_path)
    film(tmp_path, "0001", **values)
    with pytest.raises(DataError, match=message):
        read_dataset(config_of("mm_imdb", tmp_path), ALL)


def test_missing_files_are_named(tmp_path: Path) -> None:
    mm_imdb(tmp_path)
    (tmp_path / "dataset" / "0004.jpeg").unlink()
    config = config_of("mm_imdb", tmp_path)
    assert open_dataset_images(config).find_unreadable(read_dataset(config, ALL).splits["validation"].images) == [
        "0004.jpeg"
    ]
    (tmp_path / "dataset" / "0004.json").unlink()
    with pytest.raises(DataError, match=r"0004\.json: cannot be read"):
        read_dataset(config, ALL)
    (tmp_path / "split.json").write_text("[")
    with pytest.raises(DataError, match=r"split\.json: is not valid JSON"):
        read_dataset(config, ALL)


def test_film_in_two_splits_is_rejected(tmp_path: Path) -> None:
    mm_imdb(tmp_path)
    lines(tmp_path / "split.json", json.dumps({"train": ["0000", "0001"], "dev": ["0001"], "test": ["0002"]}))
    with pytest.raises(
        DataError, match=r"1 sample\(s\) are in more than one split; .*, got 0001\.jpeg with the same text \(train"
    ):
        read_dataset(config_of("mm_imdb", tmp_path), ALL)


def test_malformed_files_are_named(tmp_path: Path) -> None:
    mm_imdb(tmp_path)
    lines(tmp_path / "dataset" / "0002.json", "[]")
    with pytest.raises(DataError, match=r"0002\.json: not a JSON object; expected keys and values, got \[\]"):
        read_dataset(config_of("mm_imdb", tmp_path), ALL)
    for text, message in (
        ("5", "not a JSON object; expected keys and values, got 5"),
        ('{"train": 1}', "expected lists of ids under train"),
    ):
        lines(tmp_path / "split.json", text)
        with pytest.raises(DataError, match=message):
            read_dataset(config_of("mm_imdb", tmp_path), ALL)
