"""Parquet files with the images inside, as they come from the Hugging Face Hub."""

import io
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from nas.common.errors import DataError
from nas.config.data_schema import DataConfig
from nas.data.dataset import open_dataset_images, read_dataset
from tests.data.test_decoding import LFS_POINTER
from tests.support.folders import config_of

LABELS = datasets.ClassLabel(names=["cat", "dog"])


def content(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def hub_table(path: Path, count: int, first: int = 0, **more: list[Any]) -> None:
    """Write a file as `Dataset.push_to_hub` does; row groups of three rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    reds = range(first, first + count)
    values: dict[str, list[Any]] = {
        "image": [{"bytes": content(red), "path": f"{red}.png"} for red in reds],
        "text": [f"text {red}" for red in reds],
        "label": [red % 2 for red in reds],
        **more,
    }
    kinds = {"image": datasets.Image(), "text": datasets.Value("string"), "label": LABELS}
    kinds |= {name: datasets.Value("string") for name in more}
    datasets.Dataset.from_dict(values, datasets.Features(kinds)).to_parquet(path, batch_size=3)


def check(config: DataConfig, counts: dict[str, int]) -> None:
    data = read_dataset(config, tuple(counts))
    assert data.class_names == ("cat", "dog")
    assert {split: len(samples) for split, samples in data.splits.items()} == counts
    images = open_dataset_images(config)
    for samples in data.splits.values():
        assert images.find_unreadable(samples.images) == []
        for index in reversed(range(len(samples))):
            red = images.open(samples.images[index]).getpixel((0, 0))
            assert samples.texts[index] == f"text {red[0]}" and samples.labels[index] == red[0] % 2  # type: ignore[index]
            digest = images.digest(samples.images[index])
            assert digest is not None and images.fingerprint(samples.images[index])


@pytest.mark.parametrize("layout", ["data/{}-0000{}-of-00002.parquet", "default/{}/000{}.parquet", "{}_{}.parquet"])
def test_folder_of_a_hub_data_set_is_read(tmp_path: Path, layout: str) -> None:
    for split, first in (("train", 0), ("validation", 50), ("test", 100)):
        for shard in range(2):
            hub_table(tmp_path / layout.format(split, shard), 7, first + 10 * shard)
    check(config_of("datasets", tmp_path), {"train": 14, "validation": 14, "test": 14})


@pytest.mark.parametrize("reader", ["manifest", "datasets"])
def test_single_file_with_a_split_column_is_read(tmp_path: Path, reader: str) -> None:
    hub_table(tmp_path / "all.parquet", 8, split=["train"] * 5 + ["val"] * 3)
    check(config_of(reader, tmp_path / "all.parquet"), {"train": 5, "validation": 3})


def test_plain_contents_and_paths_are_images_as_well(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"image": content(red), "text": f"text {red}", "label": "cd"[red % 2], "split": "train"} for red in range(4)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "plain.parquet")
    config = config_of("manifest", tmp_path / "plain.parquet")
    assert open_dataset_images(config).open(read_dataset(config, ("train",)).splits["train"].images[3]).getpixel(
        (0, 0)
    ) == (3, 0, 0)
    (tmp_path / "5.png").write_bytes(content(5))
    for row, name in zip(rows, ("5.png", None, "gone.png", "5.png"), strict=True):
        row["image"] = {"bytes": None, "path": name}
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "paths.parquet")
    config = config_of("manifest", tmp_path / "paths.parquet")
    samples, images = read_dataset(config, ("train",)).splits["train"], open_dataset_images(config)
    assert samples.images == ("/0", "/1", "/2", "/0")
    assert images.find_unreadable(list(dict.fromkeys(samples.images))) == ["/1", "/2"]


def test_images_are_read_in_bounded_memory(tmp_path: Path) -> None:
    rows = [{"image": bytes([index]) * 2**20, "text": str(index), "label": "ab"[index % 2]} for index in range(96)]
    parquet.write_table(
        pa.Table.from_pylist(rows), tmp_path / "train.parquet", compression="none", use_dictionary=False
    )
    config = config_of("datasets", tmp_path)
    before = pa.total_allocated_bytes()
    assert len(read_dataset(config, ("train",)).splits["train"]) == 96
    images = open_dataset_images(config)
    for index in range(96):
        assert images.size(f"train/{index}") == 2**20
        assert pa.total_allocated_bytes() - before < 40 * 2**20


def test_incomplete_and_unsuitable_files_are_named(tmp_path: Path) -> None:
    hub_table(tmp_path / "a" / "train-00001-of-00003.parquet", 2)
    with pytest.raises(DataError, match=r"the Parquet file 00000 of train is missing; expected 3 files, got 1"):
        read_dataset(config_of("datasets", tmp_path / "a"), ("train",))
    for name in ("en", "de"):
        hub_table(tmp_path / "b" / name / "train.parquet", 2)
    with pytest.raises(DataError, match=r"files of train are in several folders; expected one, got .*de and .*en"):
        read_dataset(config_of("datasets", tmp_path / "b"), ("train",))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "train.parquet").write_text(LFS_POINTER)
    with pytest.raises(DataError, match=r"train\.parquet: is a Git LFS pointer; expected a Parquet file; run `git lfs"):
        read_dataset(config_of("datasets", tmp_path / "c"), ("train",))
    rows = [{"image": "a.png", "text": "x", "label": "a"}]
    (tmp_path / "d").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "d" / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: column 'image' has no images; expected cells with"):
        read_dataset(config_of("datasets", tmp_path / "d"), ("train",))
    hub_table(tmp_path / "e" / "train.parquet", 2)
    path = tmp_path / "e" / "train.parquet"
    table = parquet.read_table(path)
    kinds = json.loads(table.schema.metadata[b"huggingface"])
    kinds["info"]["features"]["label"]["names"] = ["cat"]
    parquet.write_table(table.replace_schema_metadata({b"huggingface": json.dumps(kinds).encode()}), path)
    with pytest.raises(DataError, match=r"train, row 2: label has an invalid class index; expected 0 to 0, got 1"):
        read_dataset(config_of("datasets", tmp_path / "e"), ("train",))
