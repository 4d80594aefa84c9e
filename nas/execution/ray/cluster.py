"""List the nodes of a Ray cluster, and place work on them."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.execution.placement import Node


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
