"""Signals: the first one lets a search finish and save, a second Ctrl-C or SIGTERM stops it immediately."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SAVING_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
"""The signals after which a search saves and ends: Ctrl-C, the end of a job or of a terminal, and the announcements of
batch systems that the time of a job is nearly over."""

_RETRY_SECONDS = 0.05
_REPEATED_SECONDS = 1.0
"""A SIGTERM that follows within this time repeats the first: `timeout` and batch systems send it to the process and to
its group."""


class Interruption:
    """Records whether an interruption was requested."""

    def __init__(self) -> None:
        self._requested_at: float | None = None

    @property
    def is_requested(self) -> bool:
        return self._requested_at is not None

    def request(self) -> None:
        """Request an interruption."""
        if self._requested_at is None:
            self._requested_at = time.monotonic()

    def is_urged_by(self, number: int) -> bool:
        """Return whether another signal asks to stop immediately, after an interruption was requested.

        The others may arrive repeatedly: a closing terminal sends SIGHUP through the shell and the kernel.
        """
        if self._requested_at is None:
            return False
        is_later = time.monotonic() - self._requested_at > _REPEATED_SECONDS
        return number == signal.SIGINT or (number == signal.SIGTERM and is_later)


class Interrupted(Exception):
    """A search was interrupted and has saved all finished work."""


@contextmanager
def ending_by_exception() -> Iterator[None]:
    """Raise a KeyboardInterrupt for any of `SAVING_SIGNALS`, so that the program cleans up before it ends."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    with _handling(on_signal):
        yield


@contextmanager
def interruptible(show: Callable[[str], bool] = lambda text: False) -> Iterator[Interruption]:
    """Turn the first of `SAVING_SIGNALS` into a request, and a second SIGINT or SIGTERM into a KeyboardInterrupt.

    If the KeyboardInterrupt is raised in a finalizer or in a callback from C (Ray has many), Python prints and discards
    it. It is therefore raised again shortly afterwards.

    Args:
        show: Called in the handler of the first signal with the line about it; returns whether it will be shown.
            Otherwise it is written to standard error.
    """
    interruption = Interruption()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if interruption.is_urged_by(number):
            raise KeyboardInterrupt
        if not interruption.is_requested:
            interruption.request()
            _announce(number, show)

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
    try:
        with _handling(on_signal):
            yield interruption
    finally:
        sys.unraisablehook = previous_hook


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle `SAVING_SIGNALS`; an ignored SIGHUP stays ignored, which is how `nohup` keeps a program running.

    The others are handled even if they are ignored: shells let background commands of a script ignore SIGINT, but
    a SIGINT that is sent to a search is meant for it.
    """
    is_kept = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    handled = [number for number in SAVING_SIGNALS if number != signal.SIGHUP or not is_kept]
    if threading.current_thread() is not threading.main_thread():
        handled = []  # Python allows handlers in the main thread only
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _announce(number: int, show: Callable[[str], bool]) -> None:
    name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    hint = " Press Ctrl-C again to stop immediately." if number == signal.SIGINT else ""
    text = f"Interrupted{name}: finishing short jobs and saving.{hint}"
    if show(text):
        return
    # Not print, which is not reentrant: the signal may have arrived during a print. A closed terminal takes nothing.
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())
