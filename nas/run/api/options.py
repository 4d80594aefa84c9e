"""Keyword options of searches in Python: those of the command line."""

import difflib
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

from nas.common.boundary import shown
from nas.common.errors import ArgumentError
from nas.common.progress import Reporter, build_reporter
from nas.config.overrides import Overrides
from nas.run.arguments import parse_budgets, parse_memory_budget
from nas.run.callbacks import Callback
from nas.run.executors import ExecutionOptions
from nas.run.loggers.names import LOGGERS

PathLike = str | os.PathLike[str]
Budget = str | int | Sequence[str | int]

_MAX_WORKERS = 10_000


class ResumeOptions(TypedDict, total=False):
    """Options of every session of a search; without one, the search file or the run decides.

    Args:
        workers: The number of Ray workers; None for as many as cores, GPUs and memory allow; 0 to run everything in
            this process.
        device: Where workers compute: `auto`, `cpu`, `cuda`, or without Ray workers `cuda:1`.
        precision: `auto`, `float32` or `bfloat16`.
        memory_budget: The memory of all workers of a device together, such as `3GiB`.
        cache_dir: The directory of cached encoder outputs.
        ray_address: The address of a Ray cluster to join.
        storage: The URL of the database that holds the study.
        verify: Whether to hash data, encoders and cached outputs again.
        accept_changed: Whether to accept a study that lost or changed records.
        callbacks: Objects that are called while the search runs; see `nas.Callback`.
        log_to: The names of loggers, `tensorboard`, `mlflow` or `wandb`, which sessions that resume the run keep.
        images: The folder or ZIP file that paths of images are relative to.
        image_encoder: The image encoder: a folder, `package:NAME/FOLDER` or a name on the Hugging Face Hub.
        text_encoder: The text encoder.
    """

    workers: int | None
    device: str
    precision: str
    memory_budget: str
    cache_dir: PathLike
    ray_address: str
    storage: str
    verify: bool
    accept_changed: bool
    callbacks: Sequence[Callback]
    log_to: Sequence[str]
    images: PathLike
    image_encoder: PathLike
    text_encoder: PathLike


class SearchOptions(ResumeOptions, total=False):
    """Options of a new search, with those of `ResumeOptions`.

    Args:
        image_column: The column of image paths or pictures; found if missing.
        text_column: The column of texts; found if missing.
        label_column: The column of labels; found if missing.
        split_column: The column of splits; found if missing, None to use none.
        seed: The seed of all random draws.
        strategy: The search strategy.
        deterministic: Whether the result depends on the configuration only; needs a budget in trials.
        warm_start: The directory of an earlier run whose best architectures are scored first.
    """

    image_column: str
    text_column: str
    label_column: str
    split_column: str | None
    seed: int
    strategy: str
    deterministic: bool
    warm_start: PathLike


def check_names(function: str, options: Mapping[str, Any], allowed: type) -> None:
    """Check that every keyword is an option.

    Args:
        function: The name of the function, for messages.
        options: The options that the caller gives.
        allowed: The class that declares them.

    Raises:
        TypeError: If one is unknown, as Python does for every other function.
    """
    known = get_type_hints(allowed)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def overrides_of(budget: Budget | None, options: Mapping[str, Any], *, data: str | None = None) -> Overrides:
    """Return the values that replace those of the search file or the run.

    Args:
        budget: A time (`"6m"`), a number of trials (`200`), or a list of both.
        options: The options.
        data: The present place of the data set.

    Raises:
        BudgetError: If a budget is neither.
    """
    budgets = [budget] if isinstance(budget, str | int) else list(budget or ())
    time_seconds, trials = parse_budgets([str(entry) for entry in budgets])
    places = {name: _text(options.get(name)) for name in ("images", "image_encoder", "text_encoder")}
    warm_start = options.get("warm_start")
    return Overrides(
        time_seconds=time_seconds,
        trials=trials,
        memory_bytes=parse_memory_budget(options.get("memory_budget")),
        strategy=options.get("strategy"),
        seed=options.get("seed"),
        deterministic=options.get("deterministic"),
        warm_start=None if warm_start is None else Path(warm_start),
        precision=options.get("precision"),
        data=data,
        **places,
    )


def _text(path: PathLike | None) -> str | None:
    return None if path is None else os.fspath(path)


def execution_of(options: Mapping[str, Any]) -> ExecutionOptions:
    """Return where a search runs.

    Args:
        options: The options.

    Raises:
        ArgumentError: If the number of workers is none, or a logger is unknown.
    """
    workers, cache = options.get("workers"), options.get("cache_dir")
    is_number = isinstance(workers, int) and not isinstance(workers, bool) and 0 <= workers <= _MAX_WORKERS
    if workers is not None and not is_number:
        raise ArgumentError(
            f"workers: invalid value; expected None or a whole number from 0 to {_MAX_WORKERS}, got {shown(workers)}"
        )
    log_to = options.get("log_to", ())
    if isinstance(log_to, str) or not set(log_to) <= set(LOGGERS):
        raise ArgumentError(f"log_to: expected a list of {', '.join(LOGGERS)}, got {shown(log_to)}")
    return ExecutionOptions(
        worker_count=workers,
        cache_directory=None if cache is None else Path(cache),
        ray_address=options.get("ray_address"),
        storage=options.get("storage"),
        verify=bool(options.get("verify", False)),
        accepts_changes=bool(options.get("accept_changed", False)),
        device=options.get("device", "auto"),
        callbacks=tuple(options.get("callbacks", ())),
        log_to=tuple(log_to),
    )


class _Quiet(Reporter):
    """Shows nothing."""

    def note(self, text: str) -> None:
        del text

    def progress(
        self, phase: str, done: int, total: int | None, detail: str = "", *, left_seconds: float | None = None
    ) -> None:
        del phase, done, total, detail, left_seconds


def reporter_of(progress: bool | Reporter) -> AbstractContextManager[Reporter]:
    """Return the reporter of a search.

    Args:
        progress: Whether to show messages and progress on standard output, or a reporter that receives them.
    """
    if isinstance(progress, Reporter):
        return progress
    return build_reporter() if progress else _Quiet()
