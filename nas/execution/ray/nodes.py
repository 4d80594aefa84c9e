"""The nodes of a cluster that take part in a search: their workers' slots, joining and leaving."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from nas.common.devices import AUTO, CPU
from nas.common.errors import ExecutionError
from nas.execution.base import Device
from nas.execution.placement import Node, Placement, Share, cpu_share
from nas.execution.ray.cluster import alive_nodes, driver_node, reserve_gpu, task_on, usable_gpus
from nas.execution.ray.node_setup import FeatureFinder, set_up_remote_node
from nas.execution.worker_setup import FROZEN_FILES, WorkerSetup

_UPDATE_SECONDS = 5.0
"""The time between two looks at the nodes of the cluster."""


@dataclass
class Slot:
    """Place for one worker process.

    Args:
        device: The name of the device whose memory the process uses.
        actor: The handle of the process; None if it is not running.
        gpu: The reserved GPU of the process; None if it computes on the CPU.
        record_path: Path of the file in which the process records why it dies.
        is_busy: Whether the process runs a job.
    """

    device: str
    actor: Any = None
    gpu: PlacementGroup | None = None
    record_path: Path | None = None
    is_busy: bool = False


@dataclass
class WorkerNode:
    """A node that takes part.

    Args:
        node: The node as Ray describes it.
        share: The part of the node that the search uses.
        setup: The setup of its workers, with the paths of the node.
        is_local: Whether the driver runs on the node, so that both have the same files.
        slots: The slots of its workers.
        received: The files of the run that were sent to the node, by their paths in the run directory.
    """

    node: Node
    share: Share
    setup: WorkerSetup
    is_local: bool
    slots: list[Slot] = field(default_factory=list)
    received: set[str] = field(default_factory=set)


class NodePool:
    """Keeps track of the nodes of a cluster, and lets new ones prepare before they take part.

    Args:
        setup: The setup of the workers, with the driver's paths.
        placement: The number of workers and threads.
        run_id: The name of the run on other nodes.
        cache_directory: The feature cache of other nodes; None for the default of their user.
        find_features: Function that builds or finds the features on another node; None if all nodes share the driver's.
        on_note: Callback that receives a line of text when a node joins, leaves, or cannot take part.
        is_fixed: Whether there is one node, the driver's, as long as Ray lives.

    Raises:
        ExecutionError: If no node can run workers, none has the GPUs that are wanted, or one has GPUs whose memory is
            not predicted.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        *,
        placement: Placement,
        run_id: str,
        cache_directory: Path | None,
        find_features: FeatureFinder | None,
        on_note: Callable[[str], None],
        is_fixed: bool = False,
    ) -> None:
        self._setup = setup
        self._is_fixed = is_fixed
        self._placement = placement
        self._run_id = run_id
        self._cache_directory = cache_directory
        self._find_features = find_features
        self._on_note = on_note
        self._nodes: dict[str, WorkerNode] = {}
        self._preparing: dict[Any, tuple[Node, Share]] = {}
        self._left_out: set[str] = set()
        self._updated_at = 0.0
        self._frozen: dict[str, Any] | None = None
        self.update()
        while not self._nodes and self._preparing:
            self.admit_prepared(timeout_seconds=1.0)
        self._check_not_empty()
        device = placement.device
        if device not in (AUTO, CPU.type) and not any(node.share.gpu_count for node in self):
            raise ExecutionError(
                f"--device: no node has a GPU that torch can use; expected one of {AUTO}, {CPU.type}, got {device!r}"
            )

    def __iter__(self) -> Iterator[WorkerNode]:
        return iter(self._nodes.values())

    def __contains__(self, node: WorkerNode) -> bool:
        return node.node.name in self._nodes

    def slots(self, device: str | None = None) -> Iterator[tuple[WorkerNode, Slot]]:
        """Yield the slots of one device, or of all devices, with their nodes."""
        for node in self._nodes.values():
            for slot in node.slots:
                if device is None or slot.device == device:
                    yield node, slot

    @property
    def devices(self) -> Sequence[Device]:
        slots: dict[str, list[Slot]] = {}
        for _, slot in self.slots():
            slots.setdefault(slot.device, []).append(slot)
        return [
            Device(name, len(members), sum(slot.actor is not None for slot in members), members[0].gpu is not None)
            for name, members in slots.items()
        ]

    def update_if_due(self) -> None:
        """Update the nodes if the last update is a few seconds old."""
        if time.monotonic() - self._updated_at > _UPDATE_SECONDS:
            self.update()

    def update(self) -> None:
        """Let new nodes join and forget lost ones.

        Raises:
            ExecutionError: If no node is left.
        """
        had_nodes = bool(self._nodes)
        if had_nodes and self._is_fixed:
            return  # the question would end this process if Ray were lost just now
        self._update()
        if had_nodes:
            self._check_not_empty()

    def _check_not_empty(self) -> None:
        if not self._nodes and not self._preparing:
            raise ExecutionError(
                "Ray cluster: no node can run workers; expected at least one with a CPU; everything finished is saved"
            )

    def _update(self) -> None:
        self._updated_at = time.monotonic()
        alive = alive_nodes()
        for name in [name for name in self._nodes if name not in alive]:
            self._forget(self._nodes.pop(name))
        self._left_out &= alive.keys()
        known = {*self._nodes, *self._left_out, *(node.name for node, _ in self._preparing.values())}
        new = [self._with_usable_gpus(node) for name, node in sorted(alive.items()) if name not in known]
        if not new:
            return
        local = driver_node()
        new.sort(key=lambda node: node.name != local)
        for node, share in zip(new, self._free_placement().shares(new), strict=True):
            if not share.worker_count:
                self._left_out.add(node.name)
            elif node.name == local:
                self._admit(node, share, self._setup, is_local=True)
            else:
                self._prepare(node, share)

    def _with_usable_gpus(self, node: Node) -> Node:
        """Return a node with the GPUs that its workers may use and that torch can use."""
        if not node.gpu_count or self._placement.device == CPU.type:
            return replace(node, gpu_count=0)
        count = usable_gpus(node)
        if count < node.gpu_count:
            self._on_note(f"node {node.name[:8]}: torch can use {count} of the {node.gpu_count} GPUs that Ray sees")
        if count and not self._placement.predicts_gpus:
            problem = "has GPUs and the driver has none, so memory is predicted for CPUs"
            hint = f"expected {CPU.type}, or cuda to predict it for GPUs, got {self._placement.device!r}"
            if not self._nodes:
                raise ExecutionError(f"--device: node {node.name[:8]} {problem}; {hint}")
            self._on_note(f"node {node.name[:8]} {problem}; its GPUs are not used")
            count = 0
        return replace(node, gpu_count=count)

    def _free_placement(self) -> Placement:
        """Return the placement of the workers that no node has yet."""
        placement = self._placement
        if placement.worker_count is None:
            return placement
        taken = sum(node.share.worker_count for node in self._nodes.values())
        taken += sum(share.worker_count for _, share in self._preparing.values())
        return replace(placement, worker_count=max(placement.worker_count - taken, 0))

    def _prepare(self, node: Node, share: Share) -> None:
        """Start to prepare a node: it finds its features and receives the frozen weights."""
        if self._frozen is None:  # Ray transfers each of them to a node once, for all of its workers
            self._frozen = {path.name: ray.put(np.fromfile(path, dtype=np.uint8)) for path in self._setup.frozen_paths}
        files = [self._frozen[name] for name in FROZEN_FILES]
        task = task_on(node, set_up_remote_node)
        reference = task.remote(self._setup, self._run_id, self._cache_directory, self._find_features, *files)
        self._preparing[reference] = node, share

    def admit_prepared(self, timeout_seconds: float) -> None:
        """Let the nodes that are prepared take part.

        Args:
            timeout_seconds: The longest time to wait for the first of them.
        """
        if not self._preparing:
            return
        for reference in ray.wait(list(self._preparing), timeout=timeout_seconds)[0]:
            node, share = self._preparing.pop(reference)
            try:
                setup = ray.get(reference)
            except RayTaskError as error:
                self._left_out.add(node.name)
                self._on_note(f"node {node.name[:8]} is left out: {' '.join(str(error.cause).split())}")
            except RayError:
                self._on_note(f"node {node.name[:8]} was lost before it was ready")
            else:
                self._admit(node, share, setup, is_local=False)

    def _admit(self, node: Node, share: Share, setup: WorkerSetup, *, is_local: bool) -> None:
        # A worker sees the GPU that it shares, and no other.
        setup = replace(
            setup,
            thread_count=share.threads,
            device="cuda:0" if share.gpu_count else CPU.type,
            worker_count=share.worker_count,
        )
        admitted = WorkerNode(node, share, setup, is_local)
        cpu_count = cpu_share(node.cpu_count, share) * share.workers_per_gpu if share.gpu_count else 0.0
        gpus = [reserve_gpu(node, cpu_count) for _ in range(share.gpu_count)]
        for index in range(share.worker_count):
            # Workers that use the host's memory share one device; every GPU is a separate device.
            number = index % share.gpu_count if gpus else None
            name = node.name[:8] if number is None else f"{node.name[:8]} GPU {number}"
            admitted.slots.append(Slot(name, gpu=None if number is None else gpus[number]))
        self._nodes[node.name] = admitted
        if not is_local:
            self._on_note(f"node {node.name[:8]} joined with {share.worker_count} worker(s)")

    def release_gpus(self) -> None:
        """Give the reserved GPUs back to the cluster, once no worker uses them."""
        for node in self:
            _release_gpus(node)

    def _forget(self, lost: WorkerNode) -> None:
        self._on_note(f"node {lost.node.name[:8]} was lost with {len(lost.slots)} worker(s)")
        for slot in lost.slots:
            slot.actor = None
        _release_gpus(lost)


def _release_gpus(node: WorkerNode) -> None:
    for group in {slot.gpu.id: slot.gpu for slot in node.slots if slot.gpu is not None}.values():
        remove_placement_group(group)
