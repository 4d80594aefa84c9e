"""List the nodes of a Ray cluster, and place work on them."""

from collections.abc import Mapping
from typing import Any

import ray
import torch
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from nas.execution.placement import Node

_ALL_GPUS = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
"""Lets a task that reserves no GPU see those of its node."""
_NODE_LABEL = "ray.io/node-id"


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


def usable_gpus(node: Node) -> int:
    """Return the number of a node's GPUs that torch can use there: it may be built without them.

    Raises:
        RayError: If the node is lost meanwhile.
    """
    count: int = ray.get(task_on(node, _accelerator_count, env_vars=_ALL_GPUS).remote())
    return min(count, node.gpu_count)


def _accelerator_count() -> int:
    return torch.accelerator.device_count()


def reserve_gpu(node: Node, cpu_count: float) -> PlacementGroup:
    """Reserve a whole GPU of a node for workers that share it, since Ray places parts of GPUs on any of them.

    Args:
        node: The node.
        cpu_count: The CPUs of all these workers.
    """
    bundle = {"GPU": 1, "CPU": cpu_count}
    group: PlacementGroup = placement_group([bundle], bundle_label_selector=[{_NODE_LABEL: node.name}])
    return group


def on_gpu(group: PlacementGroup) -> Any:
    """Return the scheduling strategy that places an actor on a reserved GPU."""
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)


def driver_node() -> str:
    """Return the name of the node on which this process runs."""
    name: str = ray.get_runtime_context().get_node_id()
    return name


def on_node(node: Node) -> Any:
    """Return the scheduling strategy that places a task or an actor on one node."""
    return NodeAffinitySchedulingStrategy(node_id=node.name, soft=False)


def task_on(node: Node, function: Any, env_vars: Mapping[str, str] | None = None) -> Any:
    """Return a function as a Ray task that runs on one node, once, and reserves no CPU.

    Args:
        node: The node.
        function: The function.
        env_vars: Environment variables of its process.
    """
    options: dict[str, Any] = {} if env_vars is None else {"runtime_env": {"env_vars": dict(env_vars)}}
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=on_node(node), **options)
