import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from nas.common.interrupt import SAVING_SIGNALS, ending_by_exception, interruptible


@pytest.fixture(autouse=True)
def hang_up_is_not_ignored() -> Iterator[None]:
    """Restore the default of SIGHUP, which a caller such as `nohup` lets the tests ignore."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def raise_in_finalizer(error: BaseException | None) -> None:
    """Destroy an object whose finalizer raises an error, or sends SIGINT if there is none."""

    class Finalized:
        def __del__(self) -> None:
            if error is not None:
                raise error
            os.kill(os.getpid(), signal.SIGINT)

    Finalized()


@pytest.mark.parametrize("number", SAVING_SIGNALS, ids=lambda number: number.name)
def test_the_first_signal_is_a_request(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    handler = signal.getsignal(number)
    with interruptible() as interruption:
        assert not interruption.is_requested
        os.kill(os.getpid(), number)
        assert interruption.is_requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) is handler
    message = capfd.readouterr().err
    assert message.count("finishing short jobs and saving.") == 1
    if number != signal.SIGINT:
        assert f"by {number.name}" in message


def test_message_that_is_shown_otherwise_is_not_written(capfd: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []

    def show(text: str) -> bool:
        shown.append(text)
        return True

    with interruptible(show) as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.is_requested
    assert shown == ["Interrupted by SIGTERM: finishing short jobs and saving."] and capfd.readouterr().err == ""


def test_a_later_sigterm_stops_immediately_and_repeated_signals_do_not() -> None:
    with interruptible() as interruption:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        assert interruption.is_requested
        later = time.monotonic() + 2.0
        with patch("time.monotonic", lambda: later):
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)


def test_signals_end_a_command_by_an_exception_so_that_it_cleans_up() -> None:
    for number in SAVING_SIGNALS:
        with pytest.raises(KeyboardInterrupt), ending_by_exception():
            os.kill(os.getpid(), number)


def test_signals_that_the_caller_ignores_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        with interruptible() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interruption.is_requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_that_a_shell_lets_background_commands_ignore_are_handled() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            assert interruption.is_requested
    finally:
        signal.signal(signal.SIGINT, before)


def test_closed_standard_error_does_not_stop_the_saving() -> None:
    code = (
        "import os, signal\nfrom nas.common.interrupt import interruptible\n"
        "os.close(2)\nwith interruptible() as found:\n os.kill(os.getpid(), signal.SIGTERM)\n assert found.is_requested"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_second_signal_in_a_finalizer_is_neither_lost_nor_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with interruptible() as interruption:
        interruption.request()
        raise_in_finalizer(None)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(60.0)  # interrupted after a fraction of a second
    assert capfd.readouterr().err == ""


def test_other_errors_in_finalizers_are_reported_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda error: reported.append(error.exc_type))
    with interruptible():
        raise_in_finalizer(ValueError("not an interruption"))
    assert reported == [ValueError]
