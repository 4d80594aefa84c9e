import os
import signal
import time

import pytest

from nas.common.interrupt import interruptible


def raise_in_finalizer(error: BaseException | None) -> None:
    """Destroy an object whose finalizer raises an error, or sends SIGINT if there is none."""

    class Finalized:
        def __del__(self) -> None:
            if error is not None:
                raise error
            os.kill(os.getpid(), signal.SIGINT)

    Finalized()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_and_the_second_stops_immediately(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(number)
    with interruptible() as interruption:
        assert not interruption.is_requested
        os.kill(os.getpid(), number)
        assert interruption.is_requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is handler
    assert capfd.readouterr().err.count("Press Ctrl-C again to stop immediately.") == 1


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
