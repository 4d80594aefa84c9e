"""Announce what a search is about to use: memory, samples, disk space; and what is left of its budget."""

from pathlib import Path

from nas.common.units import format_bytes, format_seconds
from nas.config.schema import BudgetConfig, Config
from nas.execution.base import Executor
from nas.run.prepare import SearchContext
from nas.run.program_name import command_line
from nas.run.time_budget import TimeAccount, time_file
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


def resume_line(directory: Path, budget: BudgetConfig) -> str:
    """Return the first line of a resumed search.

    Args:
        directory: The run directory.
        budget: The budget, over all sessions.

    Raises:
        StudyError: If the file with the running time is damaged.
    """
    used = format_seconds(TimeAccount(time_file(directory)).spent_seconds)
    return f"Run directory: {directory}. Resuming its search: {used} used of a budget of {_budget_text(budget)}"


def used_up_line(directory: Path, budget: BudgetConfig) -> str:
    """Return the line for a session that found nothing to do within the budget.

    Args:
        directory: The run directory.
        budget: The budget, over all sessions.
    """
    return f"Nothing was left to do within {_budget_text(budget)}. To search longer: {longer(directory, budget)}"


def longer(directory: Path, budget: BudgetConfig) -> str:
    """Return the command that resumes a search with twice its budget.

    Args:
        directory: The run directory.
        budget: The budget, over all sessions.
    """
    time_seconds = None if budget.time_seconds is None else 2 * budget.time_seconds
    trials = None if budget.trials is None else 2 * budget.trials
    values = [] if time_seconds is None else [_rounded(time_seconds)]
    values += [] if trials is None else [str(trials)]
    return command_line("resume", directory, rest=" ".join(f"--budget {value}" for value in values))


def _budget_text(budget: BudgetConfig) -> str:
    texts = [] if budget.time_seconds is None else [format_seconds(budget.time_seconds)]
    texts += [] if budget.trials is None else [f"{budget.trials} trials"]
    return " and ".join(texts)


def _rounded(seconds: float) -> str:
    """Return a time as a user would write it: `12m`, `1h30m`, `45s`."""
    text = format_seconds(seconds)
    return text.removesuffix("00s").removesuffix("00m") if len(text) > 3 else text
