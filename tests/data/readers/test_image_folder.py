import json
from pathlib import Path

import pytest
from pyarrow import Table, parquet

from nas.common.errors import DataError
from nas.data.dataset import open_dataset_images, read_dataset
from tests.support.folders import config_of, lines, picture


def folder(root: Path) -> None:
    for split, names in (("train", ("a", "b")), ("val", ("c",)), ("test", ("d",))):
        rows = [f"deep/{name}.png,a text of {name},{'cat' if name in 'ad' else 'dog'}" for name in names]
        lines(root / split / "metadata.csv", "file_name,text,label", *rows)
        for name in names:
            picture(root / split / "deep" / f"{name}.png")


def test_every_split_has_its_folder_and_metadata(tmp_path: Path) -> None:
    folder(tmp_path)
    config = config_of("image_folder", tmp_path)
    data = read_dataset(config, ("train", "validation", "test"))
    assert data.splits["train"].images == ("train/deep/a.png", "train/deep/b.png")
    assert data.splits["validation"].texts == ("a text of c",)
    assert data.splits["test"].labels.tolist() == [0]
    assert open_dataset_images(config).find_unreadable(data.splits["train"].images) == []


def test_column_of_splits_is_refused_where_each_split_has_its_folder(tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(DataError, match=r"data\.columns\.split: not allowed, since each split has .*, got 'part'"):
        read_dataset(config_of("image_folder", tmp_path, columns={"split": "part"}), ("train",))


def test_one_metadata_file_lists_all_splits(tmp_path: Path) -> None:
    rows = ["1.png,x,cat,train", "2.png,y,dog,train", "3.png,z,cat,dev"]
    lines(tmp_path / "metadata.csv", "file_name,caption,kind,part", *rows)
    columns = {"text": "caption", "label": "kind", "split": "part"}
    data = read_dataset(config_of("image_folder", tmp_path, columns=columns), ("train", "validation"))
    assert data.splits["validation"].images == ("3.png",)
    with pytest.raises(DataError, match=r"metadata\.csv: column 'split' is missing"):
        read_dataset(config_of("image_folder", tmp_path, columns=columns | {"split": "split"}), ("train",))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",x,cat", r"metadata\.csv, row 3: file_name is empty"),
        ("e.png,x,", r"metadata\.csv, row 3: label is empty"),
        ("/tmp/e.png,x,cat", r"metadata\.csv, row 3: file_name is an absolute path; .* got '/tmp/e\.png'"),
        ("e.png,x,cow", r"val/metadata\.csv, row 3: unknown label 'cow'; expected one of the 2 classes \(cat, dog\)"),
    ],
)
def test_unusable_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    folder(tmp_path)
    path = tmp_path / "val" / "metadata.csv"
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(DataError, match=message):
        read_dataset(config_of("image_folder", tmp_path), ("train", "validation"))


def test_folder_without_metadata_or_with_two_files_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no metadata file; expected metadata\.csv, metadata\.jsonl or metadata\.parquet in this"
    ):
        read_dataset(config_of("image_folder", tmp_path), ("train",))
    folder(tmp_path)
    lines(tmp_path / "train" / "metadata.jsonl", "{}")
    with pytest.raises(
        DataError, match=r"train: several metadata files; expected one, got metadata\.csv and metadata\.jsonl"
    ):
        read_dataset(config_of("image_folder", tmp_path), ("train",))
    with pytest.raises(DataError, match="none: the folder cannot be read"):
        read_dataset(config_of("image_folder", tmp_path / "none"), ("train",))


def test_metadata_folder_not_named_after_a_split_is_rejected(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "test").rename(tmp_path / "testing")
    with pytest.raises(
        DataError, match=r"testing/metadata\.csv: the name of its folder is not a split; .* got 'testing'"
    ):
        read_dataset(config_of("image_folder", tmp_path), ("train",))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_json_lines_and_parquet_metadata_may_have_several_labels(tmp_path: Path, kind: str) -> None:
    for split in ("train", "val"):
        rows = [
            {"file_name": f"{name}.png", "text": name, "label": labels}
            for name, labels in (("a", ["cat", "dog"]), ("b", []))
        ]
        (tmp_path / split).mkdir()
        if kind == "jsonl":
            lines(tmp_path / split / "metadata.jsonl", *map(json.dumps, rows))
        else:
            parquet.write_table(Table.from_pylist(rows), tmp_path / split / "metadata.parquet")
    picture(tmp_path / "train" / "a.png")
    config = config_of("image_folder", tmp_path, labels="several", allow_duplicates=True)
    data = read_dataset(config, ("train", "validation"))
    assert data.splits["validation"].labels.tolist() == [[1, 1], [0, 0]]
    assert open_dataset_images(config).find_unreadable(data.splits["train"].images) == ["train/b.png"]


def test_copied_image_in_another_split_is_found(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "test" / "e.png").write_bytes((tmp_path / "train" / "deep" / "b.png").read_bytes())
    path = tmp_path / "test" / "metadata.csv"
    lines(path, *path.read_text().splitlines(), "e.png,a text of b,dog", "deep/d.png,a text of a,cat")
    with pytest.raises(
        DataError, match=r"1 sample\(s\) are in more than one split; .*, got test/e\.png with the same text"
    ):
        read_dataset(config_of("image_folder", tmp_path), ("train", "validation"))
