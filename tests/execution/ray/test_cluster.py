"""Searches on a Ray cluster of several nodes, all on this machine, one of which is lost."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from nas.common.errors import ExecutionError
from nas.common.progress import LineReporter
from nas.config.overrides import Overrides
from nas.run.directory import open_study, read_run
from nas.run.executors import ExecutionOptions
from nas.run.results_csv import canonical_results
from nas.run.search import start
from tests.support.project import Project

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster with a head node of one core; tests add other nodes."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield found
    ray.shutdown()
    found.shutdown()


class LosesNode(io.StringIO):
    """A log during which a node is lost.

    Args:
        cluster: The cluster of the node.
        node: The node that is killed, without a warning, once both nodes have had work.
    """

    def __init__(self, cluster: Cluster, node: Any) -> None:
        super().__init__()
        self._cluster = cluster
        self._node = node
        self._is_lost = False

    def write(self, text: str) -> int:
        written = super().write(text)
        if not self._is_lost and "joined with" in self.getvalue() and self.getvalue().count(" screened: ") >= 5:
            self._is_lost = True
            self._cluster.remove_node(self._node, allow_graceful=False)
        return written


@pytest.mark.long
def test_search_on_two_nodes_loses_no_trial_when_one_node_is_lost(
    project: Project, cluster: Cluster, tmp_path: Path
) -> None:
    source = project.write(
        "cluster.yaml",
        **{"deterministic": True, "budget.trials": 16, "search.short_training_steps": 20, "recipe.epochs": 6},
    )
    quiet = LineReporter(io.StringIO())
    alone = ExecutionOptions(worker_count=0, cache_directory=tmp_path / "cache")
    start(source, tmp_path / "alone", Overrides(), alone, quiet)

    node = cluster.add_node(num_cpus=1, env_vars={"XDG_CACHE_HOME": str(tmp_path / "other")})
    log = LosesNode(cluster, node)
    machine = ExecutionOptions(ray_address=cluster.address)
    # On one machine the other node finds the driver's features; `test_node_setup.py` tests the other case.
    start(source, tmp_path / "run", Overrides(), machine, LineReporter(log))
    assert "joined with 1 worker(s)" in log.getvalue() and "was lost with 1 worker(s)" in log.getvalue()
    assert "Exported model" in log.getvalue()

    run, expected = (read_run(tmp_path / name) for name in ("run", "alone"))
    with open_study(tmp_path / "run", run) as study, open_study(tmp_path / "alone", expected) as reference:
        assert study.running == {} and study.rejections == []
        assert [study.count(stage) for stage in ("one_shot", "short", "full")] == [16, 8, 2]
        assert canonical_results(study) == canonical_results(reference)


def test_node_that_cannot_read_the_data_is_left_out_and_named(
    own_project: Project, cluster: Cluster, tmp_path: Path
) -> None:
    cluster.add_node(num_cpus=1, env_vars={"XDG_CACHE_HOME": "/proc/no_cache"})
    log = io.StringIO()
    source = own_project.write("left_out.yaml", **{"budget.trials": 4})
    start(source, tmp_path / "run", Overrides(), ExecutionOptions(ray_address=cluster.address), LineReporter(log))
    assert "is left out: " in log.getvalue() and "/proc/no_cache" in log.getvalue()
    assert "Exported model" in log.getvalue()


def test_ray_that_another_program_started_is_not_shut_down(project: Project, cluster: Cluster, tmp_path: Path) -> None:
    ray.init(address=cluster.address, log_to_driver=False)
    machine = ExecutionOptions(cache_directory=tmp_path / "cache")
    overrides = Overrides(trials=2)
    start(project.root / "search.yaml", tmp_path / "run", overrides, machine, LineReporter(io.StringIO()))
    assert ray.is_initialized() and ray.cluster_resources()["CPU"] == 1
    assert ray.available_resources()["CPU"] == 1  # the executor has ended its workers


def test_address_without_a_cluster_is_one_clear_error(project: Project, tmp_path: Path) -> None:
    machine = ExecutionOptions(ray_address="127.0.0.1:1", cache_directory=tmp_path / "cache")
    with pytest.raises(ExecutionError, match=r"--ray-address '127\.0\.0\.1:1': cannot connect to a Ray cluster"):
        start(project.root / "search.yaml", tmp_path / "run", Overrides(), machine, LineReporter(io.StringIO()))
