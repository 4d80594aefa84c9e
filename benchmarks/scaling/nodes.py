"""The driver's processor time for a trial on clusters of several simulated nodes, with workers that end at once."""

import logging
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import ray
from ray.cloudpickle import register_pickle_by_value
from ray.cluster_utils import Cluster

from benchmarks.instant_search import configuration, run_search
from benchmarks.scaling import instant_actor
from benchmarks.scaling.instant_actor import InstantActor, InstantSetup, no_worker
from benchmarks.scaling.processes import tree_bytes
from nas.config.schema import Config
from nas.execution.placement import Placement
from nas.execution.ray import executor as ray_executor
from nas.execution.ray.actor import WorkerFactory
from nas.execution.ray.executor import RayExecutor
from nas.execution.worker_setup import WorkerSetup

_WORKERS = 2
_POLL_SECONDS = 1.0
_STORE_BYTES = 80 * 2**20
_JOIN_SECONDS = 300.0


def measure_nodes(count: int, trials: int) -> dict[str, float]:
    """Return the driver's time for a trial, and the most memory of all processes together.

    Args:
        count: The number of nodes.
        trials: The number of trials.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.scaling.nodes"])
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(1, mp_context=context) as process,
    ):
        running = process.submit(_search_on_nodes, count, trials, Path(name))
        most_bytes = 0
        while not running.done():
            # By this process, whose time does not count.
            most_bytes = max(most_bytes, tree_bytes(os.getpid())[1])
            time.sleep(_POLL_SECONDS)
        return {"nodes": count, "trials": trials, "most_bytes": most_bytes, **running.result()}


def _search_on_nodes(count: int, trials: int, directory: Path) -> dict[str, float]:
    """Run a search on a new cluster; the first node is the driver's."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    register_pickle_by_value(instant_actor)  # importing its package would import torch
    node: dict[str, Any] = {"num_cpus": _WORKERS, "object_store_memory": _STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(count - 1):
            cluster.add_node(**node)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        config = configuration("evolution", 1, trials)
        with patch.object(ray_executor, "WorkerActor", InstantActor):
            timeline, _ = run_search(config, directory, lambda setup: _executor(config, setup, count, directory))
        after = trials // 10
        cost = timeline.cost(after, trials)
        return {"processor_milliseconds": cost.processor_milliseconds, "milliseconds": cost.milliseconds}
    finally:
        ray.shutdown()
        cluster.shutdown()


def _executor(config: Config, setup: WorkerSetup, nodes: int, directory: Path) -> RayExecutor:
    """Start the executor, and wait until all nodes take part."""
    light = InstantSetup(
        run_directory=setup.run_directory,
        feature_directory=setup.feature_directory,
        frozen_paths=setup.frozen_paths,
        supernet_path=setup.supernet_path,
        thread_count=1,
        device="cpu",
        choices=config.space.choices,
        supernet_steps=config.supernet.steps,
    )
    executor = RayExecutor(
        cast(WorkerSetup, light),
        placement=Placement(worker_count=_WORKERS * nodes, most_by_memory=_WORKERS, threads=1),
        cache_directory=directory / "cache",
        factory=cast(WorkerFactory, no_worker),
    )
    until = time.monotonic() + _JOIN_SECONDS
    while len(executor.devices) < nodes:
        if time.monotonic() > until:
            raise SystemExit(f"{len(executor.devices)} of {nodes} nodes joined in {_JOIN_SECONDS:.0f} s")
        executor.wait(_POLL_SECONDS)
        time.sleep(_POLL_SECONDS / 10)
    return executor
