"""Ctrl-C, once and twice: the first lets a search end in order, the second ends it now."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_AGAIN_AFTER_SECONDS = 0.05


class Interruption:
    """Whether somebody has asked for the end."""

    def __init__(self) -> None:
        self.is_requested = False

    def request(self) -> None:
        self.is_requested = True


class Interrupted(Exception):
    """A search has ended in order because somebody asked for it; everything finished is saved."""


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turn the first SIGINT or SIGTERM into a request, and the second into a KeyboardInterrupt.

    A finaliser or a callback from C (Ray has many) that the KeyboardInterrupt happens to be raised in does not let it
    through: Python would print and forget it. It is raised again as soon as that has returned.
    """
    interruption = Interruption()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        if interruption.is_requested:
            raise KeyboardInterrupt
        interruption.request()
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"interrupted: what is quick is finished, and everything saved; once more stops now\n")

    def on_unraisable(error: "sys.UnraisableHookArgs") -> None:
        if not issubclass(error.exc_type, KeyboardInterrupt):
            hook_before(error)
            return
        # Not raise_signal: it has to end what the main thread waits for.
        arguments = (threading.main_thread().ident, signal.SIGINT)
        again = threading.Timer(_AGAIN_AFTER_SECONDS, signal.pthread_kill, arguments)
        again.daemon = True
        again.start()

    hook_before, sys.unraisablehook = sys.unraisablehook, on_unraisable
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield interruption
    finally:
        sys.unraisablehook = hook_before
        for number, handler in before.items():
            signal.signal(number, handler)
