import os
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from nas.common.errors import DataError
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.digests import image_digests
from nas.data.readers.hf_dataset import SavedImages
from tests.support.folders import config_of

LABELS = datasets.ClassLabel(names=["cat", "dog"])


def part(labels: list[Any], kind: Any = LABELS, **more: Any) -> datasets.Dataset:
    """Return rows with images whose red value encodes the row."""
    values = {
        "image": [Image.new("RGB", (5, 4), (10 * index, 0, 0)) for index in range(len(labels))],
        "text": [f"text {index} of {len(labels)}" for index in range(len(labels))],
        "label": labels,
        **more,
    }
    kinds = {"image": datasets.Image(), "text": datasets.Value("string"), "label": kind}
    kinds |= {name: datasets.Value("string") for name in more}
    return datasets.Dataset.from_dict(values, datasets.Features(kinds))


def test_parts_are_splits_with_images(tmp_path: Path) -> None:
    parts = {"train": part([0, 1, 1]), "validation": part([1]), "test": part([0, 1])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    config = config_of("datasets", tmp_path / "saved")
    data = read_dataset(config, ("train", "validation", "test"))
    assert data.class_names == ("cat", "dog")
    assert data.splits["train"].texts[2] == "text 2 of 3" and data.splits["train"].labels.tolist() == [0, 1, 1]
    images = open_dataset_images(config)
    assert images.open(data.splits["train"].images[2]).getpixel((0, 0)) == (20, 0, 0)
    assert images.find_unreadable([*data.splits["test"].images, "test/2", "none/0"]) == ["test/2", "none/0"]
    assert images.fingerprint("train/0") and images.fingerprint("train/3") is None


def test_single_part_has_a_split_column_and_text_labels(tmp_path: Path) -> None:
    saved = part(["b", "a", "a"], datasets.Value("string"), part=["train", "train", "val"])
    saved.save_to_disk(tmp_path / "saved")
    config = config_of("datasets", tmp_path / "saved", columns={"split": "part"})
    data = read_dataset(config, ("train", "validation"))
    assert data.class_names == ("a", "b") and data.splits["train"].labels.tolist() == [1, 0]
    assert open_dataset_images(config).open(data.splits["validation"].images[0]).getpixel((0, 0)) == (20, 0, 0)


def test_samples_may_have_several_labels(tmp_path: Path) -> None:
    part([[0, 1], [], [1]], datasets.List(LABELS)).save_to_disk(tmp_path / "saved")
    values = {"labels": "several", "columns": {"split": None}}
    data = read_dataset(config_of("datasets", tmp_path / "saved", **values), ("train",))
    assert data.splits["train"].labels.tolist() == [[1, 1], [0, 0], [0, 1]]
    with pytest.raises(DataError, match="data, row 0: label is a list; expected one label"):
        read_dataset(config_of("datasets", tmp_path / "saved", columns={"split": None}), ("train",))


def test_array_format_and_missing_images_are_read(tmp_path: Path) -> None:
    values = part([[0, 1], [1], [0]], datasets.List(LABELS)).to_list()
    values[1]["image"] = None
    saved = datasets.Dataset.from_list(values, part([[0]], datasets.List(LABELS)).features)
    saved.with_format("numpy").save_to_disk(tmp_path / "saved")
    config = config_of("datasets", tmp_path / "saved", labels="several", columns={"split": None})
    data = read_dataset(config, ("train",))
    assert data.splits["train"].labels.tolist() == [[1, 1], [0, 1], [1, 0]]
    assert open_dataset_images(config).find_unreadable(data.splits["train"].images) == ["/1"]


def test_unusable_data_sets_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: not a saved data set"):
        read_dataset(config_of("datasets", tmp_path / "none"), ("train",))
    datasets.DatasetDict({"train": part([0, 1, -1])}).save_to_disk(tmp_path / "secret")
    with pytest.raises(DataError, match="train, row 2: label is empty"):
        read_dataset(config_of("datasets", tmp_path / "secret"), ("train",))
    part([[0], [1, -1]], datasets.List(LABELS)).save_to_disk(tmp_path / "secrets")
    with pytest.raises(
        DataError, match=r"secrets, data, row 1: label has an invalid class index; expected 0 to 1, got \[1, -1\]"
    ):
        read_dataset(config_of("datasets", tmp_path / "secrets", labels="several", columns={"split": None}), ("train",))
    with pytest.raises(
        DataError, match="column 'kind' is missing; expected it in the data set, got image, text, label"
    ):
        read_dataset(config_of("datasets", tmp_path / "secret", columns={"label": "kind"}), ("train",))
    columns = {"image": "label", "text": "image", "label": "text"}
    with pytest.raises(DataError, match="column 'label': has no images"):
        read_dataset(config_of("datasets", tmp_path / "secret", columns=columns), ("train",))
    datasets.DatasetDict({"unsupervised": part([0, 1])}).save_to_disk(tmp_path / "other")
    with pytest.raises(DataError, match="unknown part; expected one of train, validation, test, got 'unsupervised'"):
        read_dataset(config_of("datasets", tmp_path / "other"), ("train",))


def test_sample_in_two_parts_is_found(tmp_path: Path) -> None:
    rows = part([0, 1, 1])
    datasets.DatasetDict({"train": rows, "validation": part([0, 1]), "test": rows.select([2])}).save_to_disk(
        tmp_path / "saved"
    )
    config = config_of("datasets", tmp_path / "saved")
    with pytest.raises(DataError, match=r"1 sample\(s\) are in more than one split; .*, got test/0 with the same text"):
        read_dataset(config, ("train", "validation", "test"))


def test_identical_rows_are_held_out_together(tmp_path: Path) -> None:
    rows = part([0, 1] * 8)
    datasets.concatenate_datasets([rows, rows]).save_to_disk(tmp_path / "saved")
    values = {"columns": {"split": None}, "held_out": {"validation": 0.25, "seed": 1}}
    data = read_dataset(config_of("datasets", tmp_path / "saved", **values), ("train", "validation"))
    assert len(data.splits["validation"]) == 8 and len(set(data.splits["validation"].texts)) == 4
    assert not set(data.splits["validation"].texts) & set(data.splits["train"].texts)


def test_texts_of_one_image_share_its_name_and_are_held_out_together(tmp_path: Path) -> None:
    rows = part([0, 1] * 8)
    texts = [f"another {text}" for text in rows["text"]]
    values = rows.to_list()
    values[3]["image"] = None
    rows = datasets.Dataset.from_list(values, rows.features)
    others = rows.remove_columns("text").add_column("text", texts).cast(rows.features)
    datasets.concatenate_datasets([rows, others]).save_to_disk(tmp_path / "saved")
    values = {"columns": {"split": None}, "held_out": {"validation": 4, "seed": 1}}
    data = read_dataset(config_of("datasets", tmp_path / "saved", **values), ("train", "validation"))
    held = data.splits["validation"]
    assert len(set(held.images)) == 4 and not set(held.images) & set(data.splits["train"].images)
    counts = Counter([*held.images, *data.splits["train"].images])
    assert {image for image, count in counts.items() if count == 1} == {"/3", "/19"}, (
        "a row without an image shares nothing"
    )
    assert len(counts) == 17 and set(counts.values()) == {1, 2}


def test_images_stored_as_paths_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some versions of `datasets` store paths instead of bytes."""
    paths = [tmp_path / f"{name}.png" for name in ("a", "copy", "gone")]
    for path in paths[:2]:
        Image.new("RGB", (5, 4)).save(path)
    rows = [{"image": {"path": str(path), "bytes": None}} for path in paths]
    monkeypatch.setattr("nas.data.readers.hf_dataset.load_undecoded", lambda *arguments: rows)
    images = SavedImages(tmp_path, "image")
    assert [images.size(f"train/{row}") for row in range(3)] == [paths[0].stat().st_size, paths[1].stat().st_size, None]
    assert images.digest("train/0") == images.digest("train/1")
    assert images.find_unreadable([f"train/{row}" for row in range(3)]) == ["train/2"]


def test_picture_that_changes_in_the_files_of_the_data_set_has_another_digest(tmp_path: Path) -> None:
    part([0, 1]).save_to_disk(tmp_path / "saved")
    config = config_of("datasets", tmp_path / "saved", columns={"split": None})

    def digests() -> dict[str, str | None]:
        images = read_dataset(config, ("train",)).splits["train"].images
        return image_digests(open_dataset_images(config), images, tmp_path / "cache")

    first = digests()
    (path,) = (tmp_path / "saved").glob("*.arrow")
    content = path.read_bytes()
    changed = tmp_path / "changed"
    position = content.index(b"IDAT") + 8
    changed.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
    changed.replace(path)
    second = digests()
    assert sum(first[name] != second[name] for name in first) == 1


def test_fingerprint_is_short_for_a_part_of_many_files_and_changes_with_each(tmp_path: Path) -> None:
    """An index of digests has it for every image."""
    part([0, 1] * 4).save_to_disk(tmp_path / "saved", num_shards=8)
    config = config_of("datasets", tmp_path / "saved", columns={"split": None})
    name = read_dataset(config, ("train",)).splits["train"].images[0]
    first = open_dataset_images(config)
    newest = max(path.stat().st_mtime_ns for path in (tmp_path / "saved").glob("*.arrow"))
    assert len(first.fingerprint(name) or "") == 64 and first.modified_ns(name) == newest
    os.utime(sorted((tmp_path / "saved").glob("*.arrow"))[-1], (1, 1))
    assert open_dataset_images(config).fingerprint(name) != first.fingerprint(name)
