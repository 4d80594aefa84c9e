import json
from pathlib import Path

import pytest

from nas.config import ColumnsConfig, DataConfig
from nas.data import read_manifest
from nas.errors import DataError


def config_of(path: Path, **columns: str) -> DataConfig:
    names = {"image": "image", "text": "text", "label": "label", "split": "split"} | columns
    return DataConfig(
        manifest=str(path),
        images=str(path.parent),
        columns=ColumnsConfig(**names),
        max_text_tokens=8,
        skip_unreadable_images=False,
    )


def write(path: Path, *lines: str) -> DataConfig:
    path.write_text("\n".join(lines) + "\n")
    return config_of(path)


ROWS = ["a.png,first,cat,train", 'b.png,"a, b and ""c""",dog,train', "c.png,,cat,val", "d.png,x,dog,test"]


def test_csv_rows_land_in_their_splits(tmp_path: Path) -> None:
    dataset = read_manifest(write(tmp_path / "m.csv", "image,text,label,split", *ROWS), ("train", "validation"))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.splits["train"].texts == ("first", 'a, b and "c"')
    assert dataset.splits["train"].labels.tolist() == [0, 1]
    assert dataset.splits["validation"].texts == ("",)
    assert set(dataset.splits) == {"train", "validation"}


def test_json_lines_and_other_column_names(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    rows = [{"file": "a.png", "title": "x", "class": name, "part": "train"} for name in ("cat", "dog")]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    config = config_of(path, image="file", text="title", label="class", split="part")
    assert read_manifest(config, ("train",)).splits["train"].images == ("a.png", "a.png")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,text,label", "a,b,c"], "there is no column 'split'; the header has image, text, label"),
        (["image,text,label,split", "a,b,c,training"], "row 2: split is 'training'; expected one of train, validation"),
        (["image,text,label,split", "a,b,,train"], "row 2: label is empty"),
        (["image,text,label,split", ",b,c,train"], "row 2: image is empty"),
        (["image,text,label,split", "a,b,c"], "row 2: has more or fewer values than the header has columns"),
        (["image,text,label,split", "a,b,c,train"], r"the train split has 1 class\(es\)"),
        (["image,text,label,split", "a,b,c,train", "a,b,d,train"], "no row has split 'validation'"),
        (
            ["image,text,label,split", "a,b,c,train", "a,b,d,train", "a,b,e,validation"],
            r"row 4: label 'e' is none of the 2 known classes \(c, d\)",
        ),
    ],
)
def test_unusable_rows_name_file_and_row(tmp_path: Path, lines: list[str], message: str) -> None:
    config = write(tmp_path / "m.csv", *lines)
    with pytest.raises(DataError, match=message) as caught:
        read_manifest(config, ("train", "validation"))
    assert str(tmp_path / "m.csv") in str(caught.value)


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"image": "a", "text": "b", "label": "c", "split": "train"}\n{"image": \n')
    with pytest.raises(DataError, match="row 2: is not JSON"):
        read_manifest(config_of(path), ("train",))


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(config_of(tmp_path / "none.csv"), ("train",))
