"""Notice that Ray itself was lost, not only a worker or a node, and start it again."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from nas.common.errors import ExecutionError
from nas.execution.ray.session import RaySession

_LOSS_SECONDS = 0.5
"""The time between an error of Ray and the end of the process that causes it."""

_LOSSES = 3
"""The number of times that Ray is started again without a finished job in between."""

_STUCK_SECONDS = 15.0
"""The time after which a call will not return from a lost Ray. After a minute Ray ends this process by itself."""

_LOOK_SECONDS = 1.0


SAVED = "everything finished is saved"


class RayLost(Exception):
    """Raised when Ray itself was lost; the message gives the reason."""


class LossGuard:
    """Runs the calls of Ray, which fail in many ways, or wait for a minute and end this process, once Ray is lost.

    Args:
        session: The Ray of the calls.
        on_note: Callback that receives a line of text when Ray is started again.
    """

    def __init__(self, session: RaySession, on_note: Callable[[str], None]) -> None:
        self._session = session
        self._on_note = on_note
        self._count = 0
        self._is_calling = False
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="Ray watch", daemon=True).start()

    def close(self) -> None:
        """End the watch over calls that do not return."""
        self._closed.set()

    def _watch(self) -> None:
        """End this process if a call of a lost Ray does not return: nothing can interrupt the call."""
        seconds = 0.0
        while not self._closed.wait(_LOOK_SECONDS):
            is_stuck = self._is_calling and self._session.loss() is not None
            seconds = seconds + _LOOK_SECONDS if is_stuck else 0.0
            if seconds >= _STUCK_SECONDS:
                with suppress(OSError):
                    os.write(2, f"error: Ray: was lost: {self._session.loss()}; {SAVED}; resume the run\n".encode())
                os._exit(2)

    def check(self, wait_seconds: float = 0.0) -> None:
        """Check that Ray works.

        Args:
            wait_seconds: The time to wait for a loss.

        Raises:
            RayLost: If it does not.
        """
        deadline = time.monotonic() + wait_seconds
        while (reason := self._session.loss()) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if reason is not None:
            raise RayLost(reason)

    def check_after(self, error: Exception) -> None:
        """Check that an error is not the first sign of a loss.

        Raises:
            RayLost: If it is.
        """
        try:
            self.check(_LOSS_SECONDS)
        except RayLost as loss:
            raise loss from error

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Run calls of Ray, and turn whatever they raise into `RayLost` if Ray was lost.

        Raises:
            RayLost: If it was lost before, or is lost meanwhile.
        """
        self.check()
        self._is_calling = True
        try:
            yield
        except RayLost:
            raise
        except Exception as error:
            self.check_after(error)
            raise
        finally:
            self._is_calling = False

    def settle(self) -> None:
        """Forget earlier losses: a job has ended since."""
        self._count = 0

    def restart(self, loss: RayLost) -> None:
        """Start Ray again.

        Raises:
            ExecutionError: If it was not started here, cannot be started, or is lost again and again.
        """
        self._count += 1
        if self._count > _LOSSES:
            raise ExecutionError(
                f"Ray: was lost {self._count} times in succession: {loss}; {SAVED}; resume the run, "
                "with --workers 0 if this happens again"
            )
        self._session.restart()
        self._on_note(f"Ray was lost ({loss}) and has been started again; jobs that were running are repeated")
