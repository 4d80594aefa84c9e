"""Features that two nodes of a cluster compute into one store, one of which is killed."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from nas.common.progress import Reporter
from nas.config.load import load_config
from nas.config.schema import Config
from nas.data.features import blocks as feature_blocks
from nas.data.features import helpers as feature_helpers
from nas.data.features import inputs as feature_inputs
from nas.data.features.store import FeatureStore
from nas.execution.placement import Placement
from nas.execution.ray.build_helpers import HelpFunction, RayBuildHelpers
from nas.run.prepare import prepare
from tests.support.build_help import REACHED, SMALL, hanging_help, refusing_help
from tests.support.project import Project

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster with a head node of one core; tests add other nodes."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_inputs, "BATCH_SIZE", SMALL)
    monkeypatch.setattr(feature_inputs, "BLOCK_SIZE", SMALL)
    monkeypatch.setattr(feature_blocks, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(feature_helpers, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(feature_helpers, "_UPDATE_SECONDS", 0.0)


class Pausing(Reporter):
    """A reporter that keeps notes, and calls a function after the second batch."""

    def __init__(self, pause: Callable[[], object] = lambda: None) -> None:
        self.notes: list[str] = []
        self.counts: list[int] = []
        self._pause = pause

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(
        self, phase: str, done: int, total: int | None, detail: str = "", *, left_seconds: float | None = None
    ) -> None:
        if phase == "features":
            self.counts.append(done)
            if len(self.counts) == 3:
                self._pause()


def build(config: Config, cache: Path, reporter: Reporter, helpers: RayBuildHelpers | None = None) -> FeatureStore:
    return prepare(config, source="", cache_directory=cache, reporter=reporter, helpers=helpers).store


def helpers_of(cluster: Cluster, function: HelpFunction, reporter: Reporter) -> RayBuildHelpers:
    return RayBuildHelpers(
        function,
        address=cluster.address,
        placement=Placement(None, most_by_memory=8, threads=1),
        memory_bytes=2**30,
        on_note=reporter.note,
    )


def content(store: FeatureStore) -> dict[str, bytes]:
    return {name: (store.directory / name).read_bytes() for name in store.contents.files}


def wait_until(is_met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_node(cache: Path) -> Path:
    """Wait until the other node is where the test wants it to be; returns the folder of the build."""
    (building,) = (cache / "features").glob("*.building")
    wait_until((building / REACHED).exists)
    return building


def test_two_nodes_build_one_store_and_the_loss_of_one_changes_no_bit(
    project: Project, cluster: Cluster, tmp_path: Path
) -> None:
    config = load_config(project.root / "search.yaml")
    whole = content(build(config, tmp_path / "alone", Pausing()))
    node = cluster.add_node(num_cpus=1)

    def lose_node() -> None:
        building = wait_for_node(tmp_path / "shared")
        wait_until(lambda: len(list(building.glob("blocks/*.finished"))) == 2)  # both have recorded blocks
        cluster.remove_node(node, allow_graceful=False)

    reporter = Pausing(lose_node)
    helpers = helpers_of(cluster, partial(hanging_help, config), reporter)
    store = build(config, tmp_path / "shared", reporter, helpers)
    assert content(store) == whole
    assert any("was lost while it computed features; others compute its part" in note for note in reporter.notes)
    assert (
        reporter.counts == sorted(reporter.counts)
        and max(after - before for before, after in zip(reporter.counts, reporter.counts[1:], strict=False)) > SMALL
    ), "blocks of the other node are counted"
    assert [path.name for path in store.directory.parent.iterdir() if path.suffix != ".lock"] == [store.directory.name]
    assert not ray.is_initialized()


def test_node_that_does_not_share_the_cache_is_named(project: Project, cluster: Cluster, tmp_path: Path) -> None:
    config = load_config(project.root / "search.yaml")
    cluster.add_node(num_cpus=1)
    reporter = Pausing(lambda: wait_for_node(tmp_path))
    helpers = helpers_of(cluster, partial(refusing_help, config), reporter)
    build(config, tmp_path, reporter, helpers)
    assert any("does not share the feature cache, and cannot help" in note for note in reporter.notes)
