"""The callbacks of one session: those that were given, and the loggers of the run."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from nas.common.progress import Reporter
from nas.run.callbacks import CallbackList, StageEvent, ending
from nas.run.executors import ExecutionOptions
from nas.run.loggers.base import open_loggers
from nas.run.time_budget import TimeAccount


@contextmanager
def session_callbacks(
    options: ExecutionOptions, directory: Path, reporter: Reporter, account: TimeAccount, *, ends: bool
) -> Iterator[CallbackList]:
    """Open the callbacks of a session, send them its phases and its end, and close the loggers.

    Args:
        options: The callbacks and the loggers that the session adds.
        directory: The run directory.
        reporter: The receiver of messages about exceptions in callbacks.
        account: The running time, which knows when a phase starts.
        ends: Whether the search ends with the session, so that callbacks are told.

    Yields:
        The receiver of all events.

    Raises:
        NasError: If a logger cannot be used.
        OSError: If the record of the loggers cannot be written.
    """
    with open_loggers(options.log_to, directory) as loggers:
        callbacks = CallbackList((*options.callbacks, *loggers), reporter)

        def on_start(phase: str) -> None:
            callbacks.on_stage(StageEvent(directory, phase, account.spent_seconds))

        account.on_start = on_start
        with ending(callbacks, directory, lambda: account.spent_seconds) if ends else nullcontext():
            yield callbacks
