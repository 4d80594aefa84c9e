"""Ctrl-C, once and twice: the first lets a search end in order, the second ends it now."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
    """Turn the first SIGINT or SIGTERM into a request, and the second into a KeyboardInterrupt."""
    interruption = Interruption()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        if interruption.is_requested:
            raise KeyboardInterrupt
        interruption.request()
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"interrupted: what is quick is finished, and everything saved; once more stops now\n")

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
