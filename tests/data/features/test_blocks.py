"""Blocks of a feature build: shared by threads and processes, recorded with checksums, equal to the bit."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.common.errors import DataError
from nas.config.data_schema import FeaturesConfig
from nas.data.features import blocks as feature_blocks
from nas.data.features import helpers as feature_helpers
from nas.data.features import inputs as feature_inputs
from nas.data.features.blocks import BlockBoard, BlockRecord
from nas.data.features.build import FeatureBuild
from nas.data.features.cache import help_build, open_or_build
from nas.data.features.helpers import BuildHelpers, HelpOrder
from nas.data.features.inputs import FeatureSources
from nas.data.features.store import FeatureStore
from nas.data.features.threads import BuildLimits, BuildThreads, batch_bytes
from tests.support.building import build, feature_sources
from tests.support.project import Project

FEATURES = FeaturesConfig(dtype="float16", disk_bytes=2**30, views=1, attention=False)


@pytest.fixture
def sources(project: Project, monkeypatch: pytest.MonkeyPatch) -> FeatureSources:
    """Return the data and the encoders of a project, in blocks of 8 images or texts."""
    monkeypatch.setattr(feature_inputs, "BLOCK_SIZE", 8)
    monkeypatch.setattr(feature_inputs, "BATCH_SIZE", 4)
    monkeypatch.setattr(feature_blocks, "SAVE_SECONDS", 0.0)
    return feature_sources(project)


def content(store: FeatureStore) -> dict[str, bytes]:
    return {name: (store.directory / name).read_bytes() for name in store.contents.files}


def arrays(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.npy")}


@pytest.fixture
def whole(sources: FeatureSources, tmp_path: Path) -> dict[str, bytes]:
    """Return the arrays as one thread computes them."""
    return content(build(sources, tmp_path / "whole"))


def started(sources: FeatureSources, directory: Path) -> FeatureBuild:
    found = FeatureBuild(sources, FEATURES)
    found.start(directory)
    return found


def nothing(done: int, total: int) -> None:
    del done, total


def test_threads_build_the_same_store_to_the_bit(
    sources: FeatureSources, whole: dict[str, bytes], tmp_path: Path
) -> None:
    seen: list[int] = []
    before = torch.get_num_threads()
    store = build(sources, tmp_path, limits=BuildLimits(cores=3), on_progress=lambda done, total: seen.append(done))
    assert content(store) == whole
    assert seen == sorted(seen) and seen[-1] == 36 + 36 + 12 + 12
    assert torch.get_num_threads() == before


def test_error_in_one_thread_ends_the_build(own_project: Project, tmp_path: Path) -> None:
    sources = feature_sources(own_project)
    name = sources.dataset.splits["validation"].images[3]
    (own_project.images / name).write_bytes(b"not an image")
    with pytest.raises(DataError, match=f"image '{name}': is not an image"):
        build(sources, tmp_path, limits=BuildLimits(cores=2))


def test_interrupted_threads_stop(sources: FeatureSources, whole: dict[str, bytes], tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(sources, tmp_path, limits=BuildLimits(cores=2), on_progress=stop)
    assert threading.active_count() <= 2
    assert content(build(sources, tmp_path)) == whole


def test_two_builders_share_the_blocks(sources: FeatureSources, whole: dict[str, bytes], tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    main = started(sources, directory)
    helper = FeatureBuild(sources, FEATURES)
    helper_thread = threading.Thread(target=lambda: helper.help(directory, BuildThreads()))

    def start_helper(done: int, total: int) -> None:
        if done == 0:
            helper_thread.start()

    main.run(directory, start_helper, BuildThreads())
    helper_thread.join()
    assert arrays(directory) == whole
    records = [json.loads(line) for path in directory.glob("blocks/*.finished") for line in path.open()]
    assert sorted(record["block"] for record in records) == list(range(5 + 5 + 2 + 2)), "each was computed once"
    assert len(list(directory.glob("blocks/*.finished"))) == 2


def test_block_whose_rows_are_not_on_disk_is_computed_again(
    sources: FeatureSources, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """As on a network file system that has lost the writes of a node that died."""
    directory = tmp_path / "shared"
    main = started(sources, directory)
    FeatureBuild(sources, FEATURES).help(directory, BuildThreads())
    assert arrays(directory) == whole
    path = directory / "train" / "image_01.npy"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    main.run(directory, nothing, BuildThreads())
    assert arrays(directory) == whole


@pytest.mark.parametrize("damage", [lambda line: line[: len(line) // 2], lambda line: b"\0" * len(line) + b"\n"])
def test_block_with_a_damaged_record_is_computed_again(
    sources: FeatureSources, whole: dict[str, bytes], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    directory = tmp_path / "shared"
    main = started(sources, directory)
    FeatureBuild(sources, FEATURES).help(directory, BuildThreads())
    (path,) = directory.glob("blocks/*.finished")
    *lines, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + damage(last))
    before = len(lines)
    seen: list[int] = []
    main.run(directory, lambda done, total: seen.append(done), BuildThreads())
    assert len(BlockBoard(directory).finished) == before + 1 and 0 < seen[0] < seen[-1]
    assert arrays(directory) == whole


def test_claimed_block_is_taken_over_when_its_holder_lets_go(sources: FeatureSources, tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    started(sources, directory)
    first, second = BlockBoard(directory), BlockBoard(directory)
    assert first.claim(range(3)) == 0 and second.claim(range(3)) == 1
    assert second.claim([0]) is None
    first.close()
    assert second.claim([0]) == 0
    second.record([BlockRecord(0), BlockRecord(1)])
    assert first.claim(range(3)) == 2 and set(first.finished) == {0, 1}


def test_memory_limits_the_threads_which_share_the_cores(sources: FeatureSources) -> None:
    one = 100
    assert BuildLimits(8).threads(one) == BuildThreads(8, 1)
    assert BuildLimits(8, 250).threads(one) == BuildThreads(2, 4)
    assert BuildLimits(8, 10).threads(one) == BuildThreads(1, 8)
    found = FeatureBuild(sources, FEATURES)
    assert found.threads(BuildLimits(8, 2**40)) == BuildThreads(8, 1)
    assert found.threads(BuildLimits(8, 1)) == BuildThreads(1, 8)
    encoders = (sources.image_encoder, sources.text_encoder)
    sizes: dict[str, Any] = {"stored_arrays": (3, 3), "image_shape": (3, 16, 16)}
    few, many = (batch_bytes(encoders, token_counts=(17, tokens), has_scores=True, **sizes) for tokens in (8, 512))
    assert few < many


class Recorded(BuildHelpers):
    """Helpers that compute the rest of a build at their second update, and record what they are asked."""

    def __init__(self, sources: FeatureSources) -> None:
        self.sources = sources
        self.orders: list[HelpOrder] = []
        self.is_closed = False

    def update(self, order: HelpOrder) -> None:
        self.orders.append(order)
        if len(self.orders) == 2:
            assert order.is_here
            assert not HelpOrder(order.building, "another", 1).is_here
            assert not HelpOrder(order.building / "missing", order.identity, 1).is_here
            help_build(self.sources, FEATURES, order, BuildLimits())

    def close(self) -> None:
        self.is_closed = True


def test_helpers_are_started_when_the_rest_takes_long(
    sources: FeatureSources, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers, seen = Recorded(sources), [0]
    features: dict[str, Any] = {"on_note": lambda text: None, "helpers": helpers}
    open_or_build(sources, FEATURES, tmp_path / "short", on_progress=nothing, **features)
    assert not helpers.orders, "it takes less than a minute"
    monkeypatch.setattr(feature_helpers, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(feature_helpers, "_UPDATE_SECONDS", 0.0)
    store = open_or_build(
        sources, FEATURES, tmp_path / "long", on_progress=lambda done, total: seen.append(done), **features
    )
    assert content(store) == whole and len(helpers.orders) >= 2 and helpers.is_closed
    assert seen[-1] == 96 and len(seen) < 10, "others have computed most of it"


def test_help_with_a_build_of_other_data_is_refused(sources: FeatureSources, tmp_path: Path) -> None:
    directory = tmp_path / "0123.building"
    found = started(sources, directory)
    order = HelpOrder(directory, found.identity(directory) or "", 1)
    with pytest.raises(DataError, match="of this machine differ from those of the build; expected features 0123, got"):
        help_build(sources, FEATURES, order, BuildLimits())
