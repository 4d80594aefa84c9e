"""Ctrl-C: the first one lets a search finish and save, the second one stops it immediately."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_RETRY_SECONDS = 0.05


class Interruption:
    """Records whether an interruption was requested."""

    def __init__(self) -> None:
        self.is_requested = False

    def request(self) -> None:
        """Request an interruption."""
        self.is_requested = True


class Interrupted(Exception):
    """A search was interrupted and has saved all finished work."""


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turn the first SIGINT or SIGTERM into a request, and the second one into a KeyboardInterrupt.

    If the KeyboardInterrupt is raised in a finalizer or in a callback from C (Ray has many), Python prints and discards
    it. It is therefore raised again shortly afterwards.
    """
    interruption = Interruption()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        if interruption.is_requested:
            raise KeyboardInterrupt
        interruption.request()
        # Not print, which is not reentrant: the signal may have arrived during a print.
        with suppress(OSError):  # standard error may be closed or full
            os.write(2, b"Interrupted: finishing short jobs and saving. Press Ctrl-C again to stop immediately.\n")

    def on_unraisable(error: "sys.UnraisableHookArgs") -> None:
        if not issubclass(error.exc_type, KeyboardInterrupt):
            previous_hook(error)
            return
        # Not raise_signal: the signal must interrupt the system call that the main thread may be blocked in.
        arguments = (threading.main_thread().ident, signal.SIGINT)
        retry = threading.Timer(_RETRY_SECONDS, signal.pthread_kill, arguments)
        retry.daemon = True
        retry.start()

    previous_hook, sys.unraisablehook = sys.unraisablehook, on_unraisable
    previous_handlers = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield interruption
    finally:
        sys.unraisablehook = previous_hook
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
