import json
from pathlib import Path

import pytest

from nas.common.errors import DataError
from nas.data.dataset import open_dataset_images, read_dataset
from tests.support.folders import config_of, lines, sentence, snli_ve

ALL = ("train", "validation", "test")
FACTS = {"Flickr30K_ID": "13", "sentence2": "x", "gold_label": "neutral"}


def test_sentences_share_images(tmp_path: Path) -> None:
    snli_ve(tmp_path)
    config = config_of("snli_ve", tmp_path)
    data = read_dataset(config, ALL)
    assert data.class_names == ("contradiction", "entailment", "neutral")
    train = data.splits["train"]
    assert train.images == ("11.jpg",) * 3 + ("12.jpg",) * 3
    assert train.texts[4] == "neutral of 12" and train.labels.tolist() == [1, 2, 0] * 2
    assert open_dataset_images(config).find_unreadable(train.images) == []


def test_sentences_without_a_gold_label_are_counted_and_left_out(tmp_path: Path) -> None:
    snli_ve(tmp_path)
    rows = [sentence("13.jpg"), sentence("13", "so?", "-"), sentence("13", " "), sentence("13", "no", "neutral")]
    rows.append(json.dumps(FACTS | {"sentence2": None}))
    lines(tmp_path / "snli_ve_dev.jsonl", *rows)
    data = read_dataset(config_of("snli_ve", tmp_path), ALL)
    assert data.splits["validation"].images == ("13.jpg",) * 2
    assert data.left_out == {"sentences without gold label": 1, "empty sentences": 2}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"Flickr30K_ID": "13"', r"snli_ve_dev\.jsonl, row 1: not valid JSON"),
        ('{"Flickr30K_ID": "13"}', r"snli_ve_dev\.jsonl, row 1: key 'sentence2', 'gold_label' is missing"),
        (
            sentence("13", label="perhaps"),
            r"snli_ve_dev\.jsonl, row 1: unknown label 'perhaps'; expected one of the 3 classes",
        ),
        (
            json.dumps(FACTS | {"Flickr30K_ID": None}),
            r"snli_ve_dev\.jsonl, row 1: Flickr30K_ID is empty; expected the image of every sentence",
        ),
        (
            json.dumps(FACTS | {"sentence2": ["x"]}),
            r"snli_ve_dev\.jsonl, row 1: sentence2 is not text; expected text, got .* .list",
        ),
        (
            sentence("11", "neutral of 11"),
            r"1 sample\(s\) are in more than one split; .*, got 11\.jpg with the same text",
        ),
    ],
)
def test_unusable_line_is_named(tmp_path: Path, row: str, message: str) -> None:
    snli_ve(tmp_path)
    lines(tmp_path / "snli_ve_dev.jsonl", row)
    with pytest.raises(DataError, match=message):
        read_dataset(config_of("snli_ve", tmp_path), ALL)


def test_missing_files_are_named(tmp_path: Path) -> None:
    snli_ve(tmp_path)
    (tmp_path / "flickr30k_images" / "12.jpg").unlink()
    config = config_of("snli_ve", tmp_path)
    names = sorted(set(read_dataset(config, ALL).splits["train"].images))
    assert open_dataset_images(config).find_unreadable(names) == ["12.jpg"]
    (tmp_path / "snli_ve_test.jsonl").unlink()
    with pytest.raises(DataError, match=r"snli_ve_test\.jsonl: cannot be read"):
        read_dataset(config, ALL)
