"""Announce the memory, the samples and the disk space that a search is about to use."""

from nas.common.units import format_bytes
from nas.config.schema import Config
from nas.execution.base import Executor
from nas.run.prepare import SearchContext
from nas.training.kept_logits import logits_bytes
from nas.training.search_share import share_lines


def announcement(config: Config, prepared: SearchContext, executor: Executor) -> list[str]:
    """Return the lines about the resources of a search, before it starts.

    Args:
        config: The configuration of the search.
        prepared: Its features and memory predictions.
        executor: Its workers.
    """
    space, memory = config.space, prepared.memory
    slots = sum(device.slot_count for device in executor.devices)
    smallest, largest = (memory.predict(entry).peak_bytes for entry in (space.smallest, space.largest))
    return [
        f"Memory: {format_bytes(config.budget.memory_bytes)} per device, {slots} worker(s) on "
        f"{len(executor.devices)} device(s). Each training needs {format_bytes(smallest)} to {format_bytes(largest)}, "
        f"{format_bytes(memory.idle_bytes)} of it fixed overhead",
        *share_lines(config, len(prepared.store.splits["train"])),
        _disk_line(config, prepared),
    ]


def _disk_line(config: Config, prepared: SearchContext) -> str:
    """Return the line about what full trainings leave in the run directory."""
    store = prepared.store
    count = (config.search.finalists + 1) * (1 + config.search.rerun_seeds)
    weights = 4 * max(map(prepared.memory.parameter_count, config.space.largest_of_each_kind))
    logits = logits_bytes(len(store.splits["validation"]), len(store.class_names))
    return (
        f"Disk: up to {count} full trainings keep their weights and validation logits in the run directory, at most "
        f"{format_bytes(count * (weights + logits))}"
    )
