"""Start or join a Ray cluster, list its nodes, and place work on them."""

import logging
import os
import socket
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.common.errors import ExecutionError
from nas.execution.placement import Node, Placement

_CONNECT_SECONDS = 10.0


def connect(address: str | None, placement: Placement) -> None:
    """Start a private Ray, or join a cluster.

    Args:
        address: The address of the cluster; None to start a private Ray.
        placement: The number of workers and threads for which a private Ray needs CPUs.

    Raises:
        ExecutionError: If there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray prints the trace of an error whose reference is never read; every error that matters is read here.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    # A private Ray would start one process per core in advance, none of which has the environment of a worker.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    silence_worker_logs()
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        try:
            host, colon, port = address.rpartition(":")
            if colon and port.isdigit() and "/" not in host:
                # Ray itself retries for minutes if the port is closed.
                socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
            ray.init(address=address, **common)
        except (OSError, ValueError, RuntimeError) as error:  # ConnectionError is an OSError
            reason = " ".join(str(error).split())
            raise ExecutionError(
                f"--ray-address {address!r}: cannot connect to a Ray cluster; expected HOST:PORT of its head node, "
                f"got: {reason}"
            ) from error
        return
    wanted = (placement.worker_count or 0) * (placement.threads or 1)
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, wanted),
        include_dashboard=False,
        object_store_memory=100 * 2**20,  # results are small; features and weights are memory-mapped files
        **common,
    )


def silence_worker_logs() -> None:
    """Stop Ray from printing its own message about a dead worker, which it does even without `log_to_driver`.

    No public option exists, so this sets the switch that Ray's debugger uses; without it the message merely appears.
    """
    worker = ray._private.worker
    if hasattr(worker, "_worker_logs_enabled"):
        worker._worker_logs_enabled = False


def alive_nodes() -> dict[str, Node]:
    """Return the nodes that are alive and have at least one CPU, by name."""
    return {
        entry["NodeID"]: Node(
            name=entry["NodeID"],
            cpu_count=int(entry["Resources"].get("CPU", 0)),
            gpu_count=int(entry["Resources"].get("GPU", 0)),
            host=entry["NodeManagerAddress"],
        )
        for entry in ray.nodes()
        if entry["Alive"] and entry["Resources"].get("CPU", 0) >= 1
    }


def driver_node() -> str:
    """Return the name of the node on which this process runs."""
    name: str = ray.get_runtime_context().get_node_id()
    return name


def on_node(node: Node) -> Any:
    """Return the scheduling strategy that places a task or an actor on one node."""
    return NodeAffinitySchedulingStrategy(node_id=node.name, soft=False)


def task_on(node: Node, function: Any) -> Any:
    """Return a function as a Ray task that runs on one node, once, and reserves no CPU."""
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=on_node(node))
