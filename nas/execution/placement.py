"""How many workers each node of a cluster gets, and what each of them may use. Plain arithmetic, no Ray here."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """What a node of a cluster offers.

    Args:
        name: Its identity.
        cpu_count: Cores.
        gpu_count: Graphics processors; where there are any, workers compute on them, one each.
        host: Address by which other nodes reach it.
    """

    name: str
    cpu_count: int
    gpu_count: int
    host: str = "127.0.0.1"


@dataclass(frozen=True)
class Share:
    """What a node gives to the search.

    Args:
        worker_count: Workers on it.
        threads: Of each worker.
        uses_gpus: Whether each worker computes on a graphics processor of its own.
    """

    worker_count: int
    threads: int
    uses_gpus: bool


@dataclass(frozen=True)
class Placement:
    """How wide a search may run.

    Args:
        worker_count: Workers in all, but no more than cores; None for as many as cores, graphics processors and memory
            have room for.
        most_by_memory: Workers on one host for which its memory budget has room.
        threads: Of each worker, however many there are; None for an equal share of a node's cores.
    """

    worker_count: int | None
    most_by_memory: int
    threads: int | None

    def shares(self, nodes: Sequence[Node]) -> list[Share]:
        """Of every node, in their order; a node may get no worker."""
        if self.worker_count is None:
            counts = [self._automatic(node) for node in nodes]
        else:
            # Fixed threads shape results and are kept however many workers there are; else cores are not shared.
            room = [self.worker_count if self.threads else max(node.cpu_count, node.gpu_count) for node in nodes]
            sizes = [max(node.gpu_count or node.cpu_count, 1) for node in nodes]
            counts = [0] * len(nodes)
            for _ in range(min(self.worker_count, sum(room))):
                # The node with the fewest workers for its size is next; of equals the first.
                open_nodes = [index for index, count in enumerate(counts) if count < room[index]]
                counts[min(open_nodes, key=lambda index: (counts[index] / sizes[index], index))] += 1
        return [
            Share(
                worker_count=count,
                threads=self.threads or max(node.cpu_count // max(count, 1), 1),
                uses_gpus=0 < count <= node.gpu_count,
            )
            for node, count in zip(nodes, counts, strict=True)
        ]

    def _automatic(self, node: Node) -> int:
        if node.gpu_count:
            return node.gpu_count
        by_threads = node.cpu_count // (self.threads or 1)
        return max(min(by_threads, self.most_by_memory), 1)


def cpu_share(node_cpu_count: int, share: Share) -> float:
    """CPUs that Ray is asked for a worker: its threads, or less where more workers are wanted than there are cores."""
    if share.worker_count * share.threads <= node_cpu_count:
        return share.threads
    part = node_cpu_count / share.worker_count
    return float(int(part)) if part >= 1 else int(part * 1e4) / 1e4
