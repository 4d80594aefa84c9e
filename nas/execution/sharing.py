"""Reserve memory for trainings that several processes share: the supernet's, and full ones on accelerators."""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from nas.execution.memory_pool import MemoryPool
from nas.search.keys import ModelKey
from nas.search.trial import Job, Stage


def share_idle_devices(
    starting: Sequence[tuple[Job, str]],
    reservations: Mapping[tuple[ModelKey, Stage], int],
    pools: Mapping[str, MemoryPool],
    accelerators: Collection[str],
) -> list[tuple[Job, str, int]]:
    """Reserve the accelerators on which nothing runs for trainings that are about to start.

    One after the other goes to the training with the fewest, in a tie to the first; each reserves there what it
    reserves on its first device. Workers on CPUs share no training: they share cores already.

    Args:
        starting: The admitted jobs, with their devices.
        reservations: The memory that each of them reserves on a device, by the identity of the job.
        pools: The memory pool of each device, by name; they are changed.
        accelerators: The names of the devices that are accelerators.

    Returns:
        The trainings, each with a further device, and the number of its idle processes that have to end first.
    """
    counts = [job.most_devices - 1 if device in accelerators else 0 for job, device in starting]
    sizes = [1] * len(starting)
    found: list[tuple[Job, str, int]] = []
    for name, pool in pools.items():
        if name not in accelerators or pool.running_count:
            continue
        able = [
            index
            for index, (job, _) in enumerate(starting)
            if sizes[index] <= counts[index] and pool.processes_in_the_way(reservations[job.identity]) is not None
        ]
        if able:
            index = min(able, key=lambda index: (sizes[index], index))
            job = starting[index][0]
            sizes[index] += 1
            found.append((job, name, pool.admit(job.identity, reservations[job.identity])))
    return found


@contextmanager
def reserved_group(
    pools: Mapping[str, MemoryPool],
    process_count: int,
    peak_bytes: int,
    stop_idle_workers: Callable[[str, int], None],
) -> Iterator[tuple[Mapping[str, int], int]]:
    """Reserve memory for the processes of the supernet's training, as many as fit, while no job runs.

    Args:
        pools: The memory pools of the devices that may take part, by name; they are changed.
        process_count: The largest number of processes.
        peak_bytes: The memory that each of them needs.
        stop_idle_workers: Ends a number of idle processes of a device.

    Yields:
        The number of processes of each device, and the memory that each of them may hold: the processes of a device
        share all memory that its idle ones leave.
    """
    reserved: list[tuple[str, Hashable]] = []
    # One device after the other: processes on one device exchange their gradients faster.
    for name, pool in pools.items():
        while len(reserved) < process_count and (ended := pool.processes_in_the_way(peak_bytes)) is not None:
            key: Hashable = ("supernet", len(reserved))
            pool.admit(key, peak_bytes)
            reserved.append((name, key))
            if ended:
                stop_idle_workers(name, ended)
    processes: dict[str, int] = {}
    for name, _ in reserved:
        processes[name] = processes.get(name, 0) + 1
    rooms = []
    for name, count in processes.items():
        pool = pools[name]
        rooms.append((pool.budget_bytes - pool.idle_count * pool.idle_bytes) // count)
    try:
        yield processes, min(rooms)
    finally:
        for name, key in reserved:
            pools[name].release(key, process_lives=True)
