"""Compute features on the other nodes of a Ray cluster while the driver computes them, into one store."""

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from nas.common.devices import CPU
from nas.common.errors import NasError
from nas.data.features.helpers import BuildHelpers, HelpOrder
from nas.data.features.threads import BuildLimits
from nas.execution.placement import Node, Placement
from nas.execution.ray.cluster import alive_nodes, driver_node, on_node, usable_gpus
from nas.execution.ray.session import RaySession, open_session

_STOP_SECONDS = 3.0

HelpFunction = Callable[[HelpOrder, BuildLimits], bool]
"""Computes blocks of a build on another node, within limits; returns whether the node shares the folder of the build.

Ray sends it to other nodes by reference, so it has to be a function at the top level of a module, or a partial one.
"""


class RayBuildHelpers(BuildHelpers):
    """One process on every other node, or one for each GPU that torch can use there.

    A node that is lost or fails is named; its blocks are computed by others.

    Args:
        function: Computes blocks of the build on a node.
        address: The address of the cluster.
        placement: The number of workers and threads, which bounds the cores that are used.
        memory_bytes: The memory of the threads of each node.
        on_note: Callback that receives a line of text when a node helps, is lost, or cannot help.
    """

    def __init__(
        self,
        function: HelpFunction,
        *,
        address: str,
        placement: Placement,
        memory_bytes: int,
        on_note: Callable[[str], None],
    ) -> None:
        self._function = function
        self._address = address
        self._placement = placement
        self._memory_bytes = memory_bytes
        self._on_note = on_note
        self._session: RaySession | None = None
        self._asked: set[str] = set()
        self._running: dict[Any, Node] = {}

    def update(self, order: HelpOrder) -> None:
        try:
            if self._session is None:
                self._session = open_session(self._address, self._placement, self._on_note)
            self._start(order)
            self._collect(timeout_seconds=0)
        except (RayError, NasError) as error:
            self._on_note(f"features: other nodes cannot help: {' '.join(str(error).split())}")

    def _start(self, order: HelpOrder) -> None:
        nodes = sorted(alive_nodes().values(), key=lambda node: node.name != driver_node())
        for node, share in zip(nodes, self._placement.shares(nodes), strict=True):
            if node.name == driver_node() or node.name in self._asked or not share.worker_count:
                continue
            self._asked.add(node.name)
            has_gpus = bool(node.gpu_count) and self._placement.device != CPU.type
            gpu_count = min(usable_gpus(node), share.worker_count) if has_gpus else 0
            cores = min(share.worker_count * share.threads, node.cpu_count)
            part = max(cores // max(gpu_count, 1), 1)
            task = ray.remote(self._function_on_node).options(
                num_cpus=part,
                num_gpus=1 if gpu_count else 0,
                max_retries=0,
                scheduling_strategy=on_node(node),
            )
            limits = BuildLimits(part, self._memory_bytes, order.per_batch)
            for _ in range(max(gpu_count, 1)):
                self._running[task.remote(order, limits)] = node

    @property
    def _function_on_node(self) -> HelpFunction:
        function = self._function

        def run(order: HelpOrder, limits: BuildLimits) -> bool:
            return function(order, limits)

        return run

    def _collect(self, timeout_seconds: float) -> None:
        """Report the nodes whose processes have ended."""
        if not self._running:
            return
        count = len(self._running)
        for reference in ray.wait(list(self._running), num_returns=count, timeout=timeout_seconds)[0]:
            name = self._running.pop(reference).name[:8]
            try:
                if not ray.get(reference):
                    self._on_note(f"node {name} does not share the feature cache, and cannot help to compute features")
            except RayTaskError as error:
                self._on_note(f"node {name} cannot help to compute features: {' '.join(str(error.cause).split())}")
            except RayError:
                self._on_note(f"node {name} was lost while it computed features; others compute its part")

    def close(self) -> None:
        try:
            self._collect(_STOP_SECONDS)
            for reference in self._running:
                ray.cancel(reference, force=True)
        except RayError:
            pass  # the cluster was lost, and the features are complete
        finally:
            self._running.clear()
            if self._session is not None and self._session.is_own:
                self._session.close()
            self._session = None
