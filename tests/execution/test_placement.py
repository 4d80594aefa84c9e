from hypothesis import given
from hypothesis import strategies as st

from nas.execution.placement import Node, Placement, Share, cpu_share

NODES = st.lists(st.builds(Node, st.text(min_size=1), st.integers(1, 64), st.integers(0, 4)), min_size=1, max_size=4)


def test_automatic_workers_follow_the_cores_and_the_memory() -> None:
    node = Node("a", 8, 0)
    assert Placement(None, 100, None).shares([node]) == [Share(8, 1)]
    assert Placement(None, 3, None).shares([node]) == [Share(3, 2)]
    assert Placement(None, 0, None).shares([node]) == [Share(1, 8)]  # at least one worker
    assert Placement(None, 100, threads=4).shares([node]) == [Share(2, 4)]


def test_automatic_workers_share_the_gpus_as_memory_and_cores_allow() -> None:
    nodes = [Node("a", 16, 4), Node("b", 2, 0)]
    assert Placement(None, 1, None).shares(nodes) == [Share(4, 4, 4), Share(1, 2, 0)]
    assert Placement(None, 3, None).shares(nodes) == [Share(12, 1, 4), Share(2, 1, 0)]
    assert Placement(None, 100, None).shares([Node("a", 16, 2)]) == [Share(8, 2, 2)], "at most 4 a GPU"
    assert Placement(None, 100, None).shares([Node("a", 2, 4)]) == [Share(4, 1, 4)], "at least one a GPU"


def test_more_workers_than_gpus_share_them() -> None:
    (share,) = Placement(3, 1, None).shares([Node("a", 8, 2)])
    assert share == Share(3, 2, 2) and share.workers_per_gpu == 2
    (share,) = Placement(2, 1, None).shares([Node("a", 8, 4)])
    assert share == Share(2, 4, 2) and share.workers_per_gpu == 1


def test_workers_are_distributed_over_the_nodes_by_size() -> None:
    shares = Placement(6, 1, None).shares([Node("a", 8, 0), Node("b", 4, 0)])
    assert [share.worker_count for share in shares] == [4, 2]


@given(NODES, st.integers(1, 100), st.integers(0, 50))
def test_automatic_workers_never_have_more_threads_than_cores(nodes: list[Node], most: int, unused: int) -> None:
    for node, share in zip(nodes, Placement(None, most, None).shares(nodes), strict=True):
        assert share.worker_count >= 1
        assert share.worker_count * share.threads <= max(node.cpu_count, node.gpu_count)


@given(NODES, st.integers(1, 100))
def test_workers_share_no_cores_and_all_of_them_fit(nodes: list[Node], count: int) -> None:
    shares = Placement(count, 1, None).shares(nodes)
    room = sum(max(node.cpu_count, node.gpu_count) for node in nodes)
    assert sum(share.worker_count for share in shares) == min(count, room)
    for node, share in zip(nodes, shares, strict=True):
        assert share.worker_count * share.threads <= max(node.cpu_count, node.gpu_count)
        if share.worker_count:
            assert 0 < cpu_share(node.cpu_count, share) * share.worker_count <= node.cpu_count


def test_fixed_threads_do_not_depend_on_the_number_of_workers() -> None:
    (share,) = Placement(4, 1, threads=1).shares([Node("a", 2, 0)])
    assert share == Share(4, 1) and cpu_share(2, share) == 0.5
