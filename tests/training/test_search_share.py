"""The subset of the training samples for the supernet and short trainings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.common.errors import ConfigError
from nas.common.seeds import seed_from
from nas.config.load import parse_config
from nas.config.schema import Config
from nas.data.features.store import FeatureSplit
from nas.search.space import EntryLayers
from nas.training.search_share import searched_samples, searched_split, share_lines, stratified_subset


def with_share(config: Config, share: object) -> Config:
    values = config.as_dict()
    values["data"]["search_share"] = share
    return parse_config(values, source="test", base_directory=Path.cwd())


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    share=st.floats(0.01, 1.0),
    seed=st.integers(0, 100),
)
@settings(deadline=None, max_examples=60)
def test_subset_has_every_class_in_proportion_to_within_one(labels: list[int], share: float, seed: int) -> None:
    values, count = np.array(labels, dtype=np.int64), max(round(share * len(labels)), 1)
    chosen = stratified_subset(values, count, seed)
    assert len(chosen) == count and (np.diff(chosen) > 0).all() and 0 <= chosen.min() <= chosen.max() < len(labels)
    assert chosen.tolist() == stratified_subset(values, count, seed).tolist()
    for label in range(5):
        size = int((values == label).sum())
        assert abs((values[chosen] == label).sum() - size * count / len(labels)) < 1


def test_subset_is_drawn_at_random() -> None:
    labels = np.zeros(40, dtype=np.int64)
    drawn = np.bincount(np.concatenate([stratified_subset(labels, 10, seed) for seed in range(400)]), minlength=40)
    assert 60 < drawn.min() <= drawn.max() < 140, "100 is expected, with a standard deviation of 8.7"


def test_sample_with_several_labels_belongs_to_the_rarest() -> None:
    labels = np.zeros((12, 2), dtype=np.float32)
    labels[:10, 0] = 1  # common
    labels[:4, 1] = 1  # rare, always with the common one; the last two have none
    chosen = stratified_subset(labels, 6, seed=0)
    assert [(chosen < 4).sum(), ((chosen >= 4) & (chosen < 10)).sum(), (chosen >= 10).sum()] == [2, 3, 1]


def test_automatic_share_is_what_the_longest_training_reads_once_and_all_of_few_samples(config: Config) -> None:
    assert config.data.search_share == "auto"
    supernet = config.supernet.replace(steps=5_000, architectures_per_step=4)
    longer = config.replace(supernet=supernet, recipe=config.recipe.replace(batch_size=64))
    assert searched_samples(longer, 10_000_000) == 5_000 * 4 * 64
    assert searched_samples(longer, 1_000_000) == 1_000_000
    assert searched_samples(config, 10_000_000) == searched_samples(config, 50_000) == 50_000
    assert searched_samples(config, 49_000) == 49_000 and share_lines(config, 49_000) == []
    (line,) = share_lines(longer, 10_000_000)
    assert "1,280,000 of 10,000,000 training samples (12.8%; data.search_share: auto)" in line


def test_split_of_a_share_has_the_samples_of_the_whole(config: Config, split: FeatureSplit) -> None:
    half = config.replace(data=config.data.replace(search_share=0.5))
    part = searched_split(half, split)
    assert len(part) == len(split) // 2 and searched_split(config, split) is split
    places = stratified_subset(split.labels, len(part), _seed(half))
    indices, entry_layers = np.array([3, 0, 5]), EntryLayers(2, 1)
    found, expected = part.batch(indices, entry_layers), split.batch(places[indices], entry_layers)
    assert torch.equal(found.image_tokens, expected.image_tokens) and torch.equal(found.labels, expected.labels)
    assert torch.equal(found.text_tokens, expected.text_tokens)
    for some, every in zip(part.readouts("pooled", "mean"), split.readouts("pooled", "mean"), strict=True):
        assert torch.equal(some, every[torch.from_numpy(places)])


def _seed(config: Config) -> int:
    return seed_from(config.seed, "search share")


@pytest.mark.parametrize("share", [0, 1.5, -0.1, "half", True, None, [0.5]])
def test_other_shares_are_refused(config: Config, share: object) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.search_share: invalid value; expected auto, or a fraction above 0 and"
    ):
        with_share(config, share)


def test_share_is_read_from_text_and_written_back(config: Config) -> None:
    assert with_share(config, "2.5e-1").data.search_share == 0.25
    assert with_share(config, "auto").as_dict()["data"]["search_share"] == "auto"
