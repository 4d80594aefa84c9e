import json
import random
import shutil
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import Table, parquet

from nas.common.errors import DataError
from nas.config.data_schema import DataConfig
from nas.data.dataset import read_dataset
from nas.data.summary import summarize
from tests.support.folders import config_of, picture


def write(path: Path, *lines: str, **values: Any) -> DataConfig:
    path.write_text("\n".join(lines) + "\n")
    return config_of("manifest", path, **values)


ROWS = ["a.png,first,cat,train", 'b.png,"a, b and ""c""",dog,train', "c.png,,cat,val", "d.png,x,dog,test"]


def test_csv_rows_are_assigned_to_their_splits(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path / "m.csv", "image,text,label,split", *ROWS), ("train", "validation"))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.splits["train"].texts == ("first", 'a, b and "c"')
    assert dataset.splits["train"].labels.tolist() == [0, 1]
    assert dataset.splits["validation"].texts == ("",)
    assert set(dataset.splits) == {"train", "validation"}


def test_json_lines_with_other_column_names_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    rows = [{"file": "a.png", "title": "x", "class": name, "part": "train"} for name in ("cat", "dog")]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    columns = {"image": "file", "text": "title", "label": "class", "split": "part"}
    config = config_of("manifest", path, columns=columns)
    assert read_dataset(config, ("train",)).splits["train"].images == ("a.png", "a.png")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["image,text,label", "a,b,c"],
            "column 'split' is missing; expected it in the header, got 'image, text, label'; set data.columns.split",
        ),
        (
            ["image,text,label" + ",x" * 200, "a"],
            r"in the header, got 'image, .*\.\.\..* x'; .* \(files other than \.tsv, \.json",
        ),
        (
            ["image,text,label,split", "a,b,c,training"],
            "row 2: split is unknown; expected one of train, validation, test, got 'training'",
        ),
        (["image,text,label,split", "a,b,,train"], "row 2: label is empty"),
        (["image,text,label,split", ",b,c,train"], "row 2: image is empty"),
        (["image,text,label,split", "a,b,c"], "row 2: wrong number of values; expected 4 as in the header, got 3"),
        (["image,text,label,split", "a,b,c,train"], "the train split has too few classes; expected at least 2, got 1"),
        (
            ["image,text,label,split", "a,b,c,train", "a,b,d,train"],
            "the validation split is empty; .*; set data.held_out.validation",
        ),
        (
            ["image,text,label,split", "a,b,c,train", "a,b,d,train", "a,b,e,validation"],
            r"row 4: unknown label 'e'; expected one of the 2 classes \(c, d\)",
        ),
    ],
)
def test_unusable_row_is_named_with_its_file(tmp_path: Path, lines: list[str], message: str) -> None:
    config = write(tmp_path / "m.csv", *lines)
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(config, ("train", "validation"))
    assert str(tmp_path / "m.csv") in str(caught.value)


def test_invalid_json_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"image": "a", "text": "b", "label": "c", "split": "train"}\n{"image": \n')
    with pytest.raises(DataError, match="row 2: not valid JSON"):
        read_dataset(config_of("manifest", path), ("train",))


@pytest.mark.parametrize(("name", "delimiter"), [("m.tsv", "\t"), ("m.csv", ",")])
def test_unclosed_quote_is_reported_at_its_row(tmp_path: Path, name: str, delimiter: str) -> None:
    def rows(*values: str) -> DataConfig:
        header = "image,label,split,text"
        return write(tmp_path / name, *(row.replace(",", delimiter) for row in (header, *values)), quotes="double")

    message = rf"{name}, row 3: malformed quotes .*; expected a text that begins with a quote to be quoted as a whole"
    for row in ('b.png,cat,train,"Best pie', 'b.png,"dog,train,y'):
        with pytest.raises(DataError, match=message):
            read_dataset(rows("a.png,dog,train,x", row, 'c.png,"cat,train,z'), ("train",))
    data = read_dataset(
        rows("a.png,dog,train,x", 'b.png,cat,train,"""Best"" pie"', 'c.png,cat,train,5" pie'), ("train",)
    )
    assert data.splits["train"].texts == ("x", '"Best" pie', '5" pie')


def test_rows_are_numbered_by_their_first_line_and_texts_may_be_long(tmp_path: Path) -> None:
    rows = ['a.png,"one\ntwo\nthree",dog,train', f"b.png,{'word ' * 40_000},cat,train", "c.png,x,,train"]
    config = write(tmp_path / "m.csv", "image,text,label,split", *rows[:2])
    data = read_dataset(config, ("train",))
    assert data.splits["train"].texts[0] == "one\ntwo\nthree" and len(data.splits["train"].texts[1]) == 199_999
    write(tmp_path / "m.csv", "image,text,label,split", *rows)
    with pytest.raises(DataError, match="row 6: label is empty"):
        read_dataset(config, ("train",))
    write(tmp_path / "m.csv", "image,text,label,split", "", rows[0], "", "", rows[2])
    with pytest.raises(DataError, match="row 8: label is empty"):
        read_dataset(config, ("train",))
    write(tmp_path / "m.csv", "image,text,label,split", 'a.png,"one\ntwo",dog')
    with pytest.raises(DataError, match="row 2: wrong number of values"):
        read_dataset(config, ("train",))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_null_and_nan_are_empty_texts(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"m.{form}"

    def rows(*values: dict[str, Any]) -> DataConfig:
        given = [{"image": "a.png", "label": "cat", "split": "train"} | row for row in values]
        if form == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in given))
        else:
            parquet.write_table(Table.from_pylist(given), path)
        return config_of("manifest", path)

    nan = float("nan")
    data = read_dataset(rows({"text": nan}, {"text": None, "label": "dog"}, {"text": 1.5}), ("train",))
    assert data.splits["train"].texts == ("", "", "1.5")
    for empty in (nan, None):
        with pytest.raises(DataError, match="row 1: label is empty"):
            read_dataset(rows({"text": "x", "label": empty}), ("train",))


def test_list_written_as_text_is_rejected(tmp_path: Path) -> None:
    write(tmp_path / "m.csv", "image,text,label,split", "a.png,x,\"['cat', 'dog']\",train")
    with pytest.raises(DataError, match=r"row 2: label is a list written as text; expected labels separated by '\|'"):
        read_dataset(config_of("manifest", tmp_path / "m.csv", labels="several"), ("train",))
    write(tmp_path / "m.csv", "image,text,label,split", "a.png,x,[other],train", "b.png,x,[a]|[b],train")
    data = read_dataset(config_of("manifest", tmp_path / "m.csv", labels="several"), ("train",))
    assert data.class_names == ("[a]", "[b]", "[other]"), "class names may have brackets"


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_dataset(config_of("manifest", tmp_path / "none.csv"), ("train",))


def test_tsv_and_parquet_are_read_equally(tmp_path: Path) -> None:
    header, *rows = ["image\ttext\tlabel\tsplit", "a.png\tone, two\tcat\ttrain", "b.png\t\tdog\ttrain"]
    read = [read_dataset(write(tmp_path / "m.tsv", header, *rows), ("train",))]
    values = dict(zip(header.split("\t"), zip(*(row.split("\t") for row in rows), strict=True), strict=True))
    parquet.write_table(Table.from_pydict({**values, "more": [1, 2]}), tmp_path / "m.parquet")
    read.append(read_dataset(config_of("manifest", tmp_path / "m.parquet"), ("train",)))
    for data in read:
        assert data.splits["train"].images == ("a.png", "b.png")
        assert data.splits["train"].texts == ("one, two", "") and data.splits["train"].labels.tolist() == [0, 1]


def test_damaged_and_incomplete_parquet_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    parquet.write_table(Table.from_pydict({"image": ["a"], "text": ["b"]}), path)
    with pytest.raises(
        DataError, match=r"m\.parquet: column 'label', 'split' is missing; expected it in the header, got 'image, text'"
    ):
        read_dataset(config_of("manifest", path), ("train",))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"m\.parquet: the manifest cannot be read"):
        read_dataset(config_of("manifest", path), ("train",))


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_samples_may_have_several_labels_or_none(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"m.{form}"
    labels = [["cat", "dog"], ["dog"], [], ["cat", "cat"]]
    rows: list[dict[str, Any]] = [
        {"image": f"{index}.png", "text": "x", "label": names, "split": "train"} for index, names in enumerate(labels)
    ]
    if form == "csv":
        path.write_text(
            "image,text,label,split\n" + "".join(f"{i}.png,x,{' ; '.join(n)},train\n" for i, n in enumerate(labels))
        )
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet.write_table(Table.from_pylist(rows), path)
    data = read_dataset(config_of("manifest", path, labels="several", label_separator=";"), ("train",))
    assert data.class_names == ("cat", "dog")
    assert data.splits["train"].labels.dtype == np.float32
    assert data.splits["train"].labels.tolist() == [[1, 1], [0, 1], [0, 0], [1, 0]]
    assert "2 classes, 2 samples each; 1.00 labels per sample" in summarize(data)[0]


def test_missing_splits_are_held_out_by_image_and_class(tmp_path: Path) -> None:
    rows = [f"{index // 2}.png,{index},{'dog' if index % 8 < 2 else 'cat'}" for index in range(160)]
    write(tmp_path / "m.csv", "image,text,label", *rows)
    values = {"columns": {"split": None}, "held_out": {"validation": 0.2, "test": 8, "seed": 3}}
    config = config_of("manifest", tmp_path / "m.csv", **values)
    data = read_dataset(config, ("train", "validation", "test"))
    assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 112, "validation": 32, "test": 16}
    for samples in data.splits.values():
        assert Counter(samples.labels.tolist())[1] == len(samples) / 4
        assert set(Counter(samples.images).values()) == {2}, "both samples of an image are in one split"
    again = read_dataset(config, ("train", "validation", "test"))
    assert again.splits["test"].images == data.splits["test"].images


def test_sample_in_two_splits_is_rejected(tmp_path: Path) -> None:
    config = write(tmp_path / "m.csv", "image,text,label,split", *ROWS, "a.png,first,cat,test")
    with pytest.raises(
        DataError, match=r"1 sample\(s\) are in more than one split; .*, got a\.png with the same text \(train, row 2"
    ):
        read_dataset(config, ("train", "validation"))
    config = config_of("manifest", tmp_path / "m.csv", allow_duplicates=True)
    assert summarize(read_dataset(config, ("train",)))[-1] == "1 samples are in more than one split"


def test_empty_and_unreadable_files_are_not_duplicates(tmp_path: Path) -> None:
    """They are reported when images are checked, and `data.skip_unreadable_images` leaves them out."""
    write(tmp_path / "m.csv", "image,text,label,split", "a.png,x,cat,train", "b.png,x,cat,test", "c.png,y,dog,train")
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    assert len(read_dataset(config_of("manifest", tmp_path / "m.csv"), ("train",)).splits["train"]) == 2
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as images:
        for name in ("a.png", "b.png"):
            images.writestr(name, b"the same bytes")
    archive = tmp_path / "images.zip"
    config = config_of("manifest", tmp_path / "m.csv", images=str(archive))
    with pytest.raises(DataError, match=r"1 sample\(s\) are in more than one split"):
        read_dataset(config, ("train",))
    archive.write_bytes(archive.read_bytes().replace(b"the same", b"not same"))  # now the checksums are wrong
    assert len(read_dataset(config, ("train",)).splits["train"]) == 2


def test_summary_lists_samples_images_classes_and_texts(tmp_path: Path) -> None:
    config = write(tmp_path / "m.csv", "image,text,label,split", *ROWS, "a.png,one two three,cat,train")
    assert summarize(read_dataset(config, ("train", "validation"))) == [
        "train: 3 samples, 2 images; 2 classes, 1 (dog) to 2 (cat) samples each; texts: 1–4 words, median 3",
        "validation: 1 samples, 1 images; 2 classes, 0 (dog) to 1 (cat) samples each; texts: 0 words, median 0, "
        "1 empty",
    ]


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_many_rows_need_bounded_memory(tmp_path: Path, count: int) -> None:
    path = tmp_path / "m.csv"
    with path.open("w") as file:
        file.write("image,text,label,split\n")
        for index in range(count):
            file.write(f"folder/{index:06}.jpg,a text of some words {index},class {index % 50},train\n")
    tracemalloc.start()
    data = read_dataset(config_of("manifest", path), ("train",))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data.splits["train"]) == count
    assert peak < 1500 * count


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": ["cat", "dog"]}, r"row 1: label is a list; expected one label, got .*; set data\.labels: several"),
        ({"text": {"en": "x"}}, r"row 1: text is not text; expected text, got .* \(dict"),
        ({"image": ["a.png"]}, r"row 1: image is not text; expected text, got .* \(list"),
    ],
)
def test_values_of_other_types_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"image": "a.png", "text": "x", "label": "cat", "split": "train"} | row))
    with pytest.raises(DataError, match=message):
        read_dataset(config_of("manifest", path), ("train",))


def test_even_the_rarest_label_stays_in_train(tmp_path: Path) -> None:
    generator = random.Random(0)
    rows = []
    for index in range(300):
        labels = {f"l{int(generator.paretovariate(0.7)) % 40:02}" for _ in range(3)}
        rows.append(f"{index}.png,x,{'|'.join(sorted(labels))}")
    write(tmp_path / "m.csv", "image,text,label", *rows)
    for seed in range(5):
        values = {"columns": {"split": None}, "held_out": {"validation": 0.15, "test": 0.15, "seed": seed}}
        data = read_dataset(config_of("manifest", tmp_path / "m.csv", labels="several", **values), ("train", "test"))
        assert len(data.splits["test"]) == 45
        assert data.splits["train"].labels.sum(axis=0).min() >= 1


def test_two_spellings_of_a_path_are_one_image(tmp_path: Path) -> None:
    config = write(tmp_path / "m.csv", "image,text,label,split", "./a.png,x,cat,train", "b/../a.png,y,dog,train")
    assert read_dataset(config, ("train",)).splits["train"].images == ("a.png", "a.png")


@pytest.mark.parametrize("archived", [False, True])
def test_sample_under_two_paths_is_found_and_held_out_together(tmp_path: Path, archived: bool) -> None:
    images = tmp_path / "images"
    for name in ("a", "b", "c", "d"):
        picture(images / f"{name}.png")
    (images / "e.png").write_bytes((images / "a.png").read_bytes())
    if archived:
        shutil.make_archive(str(images), "zip", images)
    given = {"images": str(images.with_suffix(".zip") if archived else images)}
    rows = ["a.png,x,cat", "b.png,x,dog", "c.png,x,cat", "d.png,x,dog", "e.png,x,cat"]
    splits = ["train", "train", "validation", "test", "test"]
    write(
        tmp_path / "m.csv", "image,text,label,split", *(f"{row},{name}" for row, name in zip(rows, splits, strict=True))
    )
    config = config_of("manifest", tmp_path / "m.csv", **given)
    with pytest.raises(
        DataError, match=r"1 sample\(s\) are in more than one split; .*, got e\.png with the same text \(train, row 2"
    ):
        read_dataset(config, ("train", "validation"))
    assert read_dataset(config, ("train",), compares_images=False).duplicate_count == 0
    rows[4] = "e.png,another text,cat"
    write(
        tmp_path / "m.csv", "image,text,label,split", *(f"{row},{name}" for row, name in zip(rows, splits, strict=True))
    )
    assert read_dataset(config, ("train", "validation")).duplicate_count == 0, (
        "a different text makes a different sample"
    )
    rows[4] = "e.png,x,cat"
    write(tmp_path / "m.csv", "image,text,label", *rows)
    for seed in range(6):
        values = {"columns": {"split": None}, "held_out": {"validation": 2, "seed": seed}, **given}
        data = read_dataset(config_of("manifest", tmp_path / "m.csv", **values), ("train", "validation"))
        held = set(data.splits["validation"].images)
        assert {"a.png", "e.png"} <= held or not {"a.png", "e.png"} & held
        assert len(held - {"e.png"}) == 2


def test_unpaired_surrogate_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    row = {"image": "a.png", "text": "nice", "label": "cat", "split": "train"}
    for key, value in (("text", "nice \ud83d"), ("image", "\ud83d.png")):
        path.write_text(json.dumps(row) + "\n" + json.dumps(row | {key: value}))
        with pytest.raises(DataError, match=r"m\.jsonl, row 2: .* has an unpaired surrogate at position"):
            read_dataset(config_of("manifest", path), ("train",))
