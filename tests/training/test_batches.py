"""Order of samples and views, and their division into batches and micro-batches."""

from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from nas.data.features.store import FeatureSplit
from nas.search.space import EntryLayers
from nas.training.batches import BatchSchedule
from tests.support.tiny import reads_at

Read = tuple[list[int], EntryLayers, list[int] | None]
"""Sample indices, entry layers and views of one read."""


class RecordingSplit:
    """Split that returns the arguments of each read instead of features."""

    def __init__(self, view_count: int) -> None:
        self.view_count = view_count

    def batch(self, indices: NDArray[np.int64], reads: EntryLayers, views: NDArray[np.int64] | None = None) -> Read:
        return indices.tolist(), reads, None if views is None else views.tolist()


def read(schedule: BatchSchedule, step: int, *, view_count: int, micro_batches: int = 1) -> list[Any]:
    """Return the reads of a batch, one per micro-batch."""
    split = cast(FeatureSplit, RecordingSplit(view_count))
    return list(schedule.select(split, step).read(reads_at(1), micro_batches))


def views_of_epoch(schedule: BatchSchedule, epoch: int, view_count: int = 4) -> dict[int, int]:
    """Return the drawn view of every sample."""
    drawn: dict[int, int] = {}
    for step in range(epoch * schedule.steps_per_epoch, (epoch + 1) * schedule.steps_per_epoch):
        ((indices, _, views),) = read(schedule, step, view_count=view_count)
        drawn.update(zip(indices, views, strict=True))
    return drawn


def test_every_epoch_contains_each_sample_once() -> None:
    schedule = BatchSchedule(sample_count=12, batch_size=4, seed=3)
    for epoch in range(3):
        seen = np.concatenate([schedule.indices(epoch * 3 + step) for step in range(3)])
        assert sorted(seen.tolist()) == list(range(12))
    assert schedule.indices(0).tolist() != schedule.indices(3).tolist()


def test_order_of_an_epoch_is_drawn_once_for_all_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int]] = []
    default_rng = np.random.default_rng

    def draw(seed: tuple[int, int]) -> np.random.Generator:
        drawn.append(seed)
        return default_rng(seed)

    monkeypatch.setattr(np.random, "default_rng", draw)
    schedule = BatchSchedule(sample_count=12, batch_size=4, seed=77)
    order = np.concatenate([schedule.indices(3 + step) for step in range(3)])
    assert drawn == [(77, 1)]
    assert order.tolist() == default_rng((77, 1)).permutation(12).tolist()


def test_split_smaller_than_a_batch_is_one_batch() -> None:
    assert BatchSchedule(5, 8, 0).indices(2).size == 5


def test_micro_batches_differ_in_size_by_at_most_one_and_keep_samples_with_their_views() -> None:
    schedule = BatchSchedule(sample_count=12, batch_size=7, seed=3)
    ((indices, _, views),) = read(schedule, 0, view_count=4)
    parts = read(schedule, 0, view_count=4, micro_batches=3)
    assert [len(part[0]) for part in parts] == [3, 2, 2]
    assert [sample for part in parts for sample in part[0]] == indices
    assert [view for part in parts for view in part[2]] == views


def test_no_view_is_requested_if_images_have_one() -> None:
    schedule = BatchSchedule(sample_count=12, batch_size=4, seed=3)
    assert read(schedule, 4, view_count=1) == [(schedule.indices(4).tolist(), reads_at(1), None)]


def test_every_image_of_a_batch_has_a_view() -> None:
    schedule = BatchSchedule(sample_count=12, batch_size=4, seed=3)
    ((indices, entry_layers, views),) = read(schedule, 4, view_count=5)
    assert indices == schedule.indices(4).tolist() and entry_layers == reads_at(1)
    assert len(views) == 4 and all(0 <= view < 5 for view in views)


def test_views_depend_on_the_seed_and_the_epoch_only() -> None:
    drawn = views_of_epoch(BatchSchedule(40, 8, seed=3), epoch=1)
    assert drawn == views_of_epoch(BatchSchedule(40, 8, seed=3), epoch=1)
    # Another batch size changes the batches, not the view of a sample.
    assert drawn == views_of_epoch(BatchSchedule(40, 10, seed=3), epoch=1)
    assert drawn != views_of_epoch(BatchSchedule(40, 8, seed=3), epoch=2)
    assert drawn != views_of_epoch(BatchSchedule(40, 8, seed=4), epoch=1)


def test_views_are_drawn_uniformly() -> None:
    drawn = [*views_of_epoch(BatchSchedule(4000, 500, seed=0), epoch=0).values()]
    assert np.bincount(drawn, minlength=4) == pytest.approx(1000, rel=0.1)
