"""Distribute workers, threads and GPUs over the nodes of a cluster. Plain arithmetic, without Ray."""

from collections.abc import Sequence
from dataclasses import dataclass

_MOST_PER_GPU = 4
"""The number of workers for which a GPU is shared without being asked: each has a context of its own there."""


@dataclass(frozen=True)
class Node:
    """A node of a cluster.

    Args:
        name: The identifier of the node.
        cpu_count: The number of its cores.
        gpu_count: The number of its GPUs that torch can use; if it has any, its workers compute on them.
        host: The address at which other nodes reach it.
    """

    name: str
    cpu_count: int
    gpu_count: int
    host: str = "127.0.0.1"


@dataclass(frozen=True)
class Share:
    """The part of a node that the search uses.

    Args:
        worker_count: The number of workers on the node.
        threads: The number of threads of each worker.
        gpu_count: The number of GPUs that the workers compute on, in turn; 0 if they compute on the CPU.
    """

    worker_count: int
    threads: int
    gpu_count: int = 0

    @property
    def workers_per_gpu(self) -> int:
        """The largest number of workers that share a GPU."""
        return -(-self.worker_count // self.gpu_count)


@dataclass(frozen=True)
class Placement:
    """The number of workers and threads that a search may use.

    Args:
        worker_count: The number of workers on all nodes, limited by the number of cores; None for as many as cores,
            GPUs and memory allow.
        most_by_memory: The largest number of workers on one device that fit the memory budget.
        threads: The number of threads of each worker; None for an equal share of a node's cores.
        device: `auto`, the GPUs of nodes that have some; `cpu`; or the kind of GPU that one node at least has to have.
        predicts_gpus: Whether the memory of GPUs is predicted; if not, workers cannot use them.
    """

    worker_count: int | None
    most_by_memory: int
    threads: int | None
    device: str = "auto"
    predicts_gpus: bool = True

    def shares(self, nodes: Sequence[Node]) -> list[Share]:
        """Return the share of every node, in the order given; a node may get no worker."""
        if self.worker_count is None:
            counts = [self._automatic(node) for node in nodes]
        else:
            # A fixed number of threads shapes results, so it does not depend on the number of workers, which may then
            # share cores.
            room = [self.worker_count if self.threads else max(node.cpu_count, node.gpu_count) for node in nodes]
            sizes = [max(node.gpu_count or node.cpu_count, 1) for node in nodes]
            counts = [0] * len(nodes)
            for _ in range(min(self.worker_count, sum(room))):
                # The next worker goes to the node with the fewest workers for its size, in a tie to the first.
                open_nodes = [index for index, count in enumerate(counts) if count < room[index]]
                counts[min(open_nodes, key=lambda index: (counts[index] / sizes[index], index))] += 1
        return [
            Share(
                worker_count=count,
                threads=self.threads or max(node.cpu_count // max(count, 1), 1),
                gpu_count=min(count, node.gpu_count),
            )
            for node, count in zip(nodes, counts, strict=True)
        ]

    def _automatic(self, node: Node) -> int:
        by_threads = node.cpu_count // (self.threads or 1)
        if node.gpu_count:
            return node.gpu_count * max(min(by_threads // node.gpu_count, self.most_by_memory, _MOST_PER_GPU), 1)
        return max(min(by_threads, self.most_by_memory), 1)


def cpu_share(node_cpu_count: int, share: Share) -> float:
    """Return the CPUs that Ray reserves for a worker: its threads, or fewer if workers share cores."""
    if share.worker_count * share.threads <= node_cpu_count:
        return share.threads
    part = node_cpu_count / share.worker_count
    return float(int(part)) if part >= 1 else int(part * 1e4) / 1e4
