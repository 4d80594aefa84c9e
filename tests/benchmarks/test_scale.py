"""Generated data sets have the form of the distributed ones, and growth is computed as stated."""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale_estimate
from benchmarks.scale import bytes_at_a_million, sample_problems, slope
from benchmarks.scale_data.archives import write_data_set
from benchmarks.scale_data.food101 import write_food101
from benchmarks.scale_data.mm_imdb import write_mm_imdb
from benchmarks.scale_data.snli_ve import write_snli_ve
from nas.config.data_schema import DataConfig, HeldOutConfig
from nas.config.load import load_config
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.samples import SPLITS
from tests.support.paths import REPOSITORY


def test_generated_food101_is_read_as_distributed(tmp_path: Path) -> None:
    write_food101(tmp_path / "data", share=0.001)
    config = DataConfig(reader="food101", folder=str(tmp_path / "data"), held_out=HeldOutConfig(validation=101))
    found = read_dataset(config, SPLITS)
    assert [len(found.splits[split]) for split in SPLITS] == [404, 101, 505] and len(found.class_names) == 101
    assert found.left_out == {"images without text": 42}
    assert open_dataset_images(config).open(found.splits["train"].images[0]).size == (16, 16)
    assert "," in found.splits["train"].texts[0]


def test_generated_mm_imdb_is_read_as_distributed(tmp_path: Path) -> None:
    write_mm_imdb(tmp_path / "data", share=0.001)
    config = DataConfig(reader="mm_imdb", folder=str(tmp_path / "data"))
    found = read_dataset(config, SPLITS)
    assert [len(found.splits[split]) for split in SPLITS] == [46, 46, 46] and not found.left_out
    assert open_dataset_images(config).find_unreadable(found.splits["test"].images) == []


def test_generated_snli_ve_is_read_as_distributed(tmp_path: Path) -> None:
    write_snli_ve(tmp_path / "data", share=0.001)
    config = DataConfig(reader="snli_ve", folder=str(tmp_path / "data"))
    found = read_dataset(config, SPLITS)
    assert [len(found.splits[split]) for split in SPLITS] == [530, 30, 30]
    assert [len(set(found.splits[split].images)) for split in SPLITS] == [30, 10, 10]
    assert open_dataset_images(config).find_unreadable(found.splits["train"].images) == []


def test_generated_archives_hold_every_sample_once(tmp_path: Path) -> None:
    config = load_config(write_data_set(tmp_path / "data", 200))
    found = read_dataset(config.data, SPLITS)
    images = [name for split in SPLITS for name in found.splits[split].images]
    assert len(set(images)) == len(images) == 200 and len({name.split("/")[0] for name in images}) == 8
    assert open_dataset_images(config.data).find_unreadable(images) == []


def test_page_about_scale_has_the_present_estimates(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["scale_estimate"])
        scale_estimate.main()
    assert capsys.readouterr().out in (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")


def test_features_of_food101_have_the_size_of_the_hidden_states_of_one_layer() -> None:
    (task,) = (task for task in scale_estimate.TASKS if task.name == "Food-101")
    assert scale_estimate.feature_bytes(task) == (65_101 * 197 + 65_101 * 20) * 768 * 2


def test_operations_of_a_layer_are_those_of_its_products() -> None:
    """Four projections, two of the feed-forward network of four times the width, scores and weighted sums."""
    tokens, width = 197, 768
    products = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
    attention = 2 * 2 * tokens * tokens * width
    expected = sum(2 * tokens * rows * columns for rows, columns in products) + attention
    assert scale_estimate.layer_operations(tokens) == expected


def figures(samples: int, seconds: float, peak: int) -> dict[str, Any]:
    phases = [{"name": "read", "processor_seconds": seconds, "peak_bytes": peak}]
    return {"samples": samples, "start_bytes": 100, "phases": phases}


@pytest.mark.parametrize(("seconds", "expected"), [(4.0, 1.0), (16.0, 2.0), (0.5, None)])
def test_slope_is_1_for_linear_and_2_for_quadratic_time(seconds: float, expected: float | None) -> None:
    assert slope(figures(10, 1.0, 0), figures(40, seconds, 0), 0) == pytest.approx(expected)


def test_quadratic_time_and_too_much_memory_are_problems() -> None:
    small = figures(10_000, 1.0, 100 + 10_000 * 1_000)
    assert sample_problems([small, figures(40_000, 4.0, 100 + 40_000 * 1_000)], 1.2) == []
    found = sample_problems([small, figures(40_000, 16.0, 100 + 40_000 * 3_000)], 1.2)
    assert ["read" in found[0], "memory" in found[1]] == [True, True]
    assert bytes_at_a_million([small, figures(40_000, 4.0, 100 + 40_000 * 1_000)]) == 100 + 1_000 * 1_000_000
