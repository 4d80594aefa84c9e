"""Time and private memory of the phases of a process."""

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nas.memory.measurement import private_bytes

_SAMPLE_SECONDS = 0.01


@dataclass(frozen=True)
class Phase:
    """The figures of one phase.

    Args:
        name: What it does.
        seconds: The time that it took.
        processor_seconds: The processor time of all threads of the process.
        peak_bytes: The highest private memory of the process during it.
    """

    name: str
    seconds: float
    processor_seconds: float
    peak_bytes: int


class Stopwatch:
    """Measures phases, one after another."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        gc.collect()
        ended, peak = threading.Event(), [private_bytes()]

        def watch() -> None:
            while not ended.wait(_SAMPLE_SECONDS):
                peak.append(max(peak.pop(), private_bytes()))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        begin, processor = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            seconds, processor_seconds = time.perf_counter() - begin, time.process_time() - processor
            ended.set()
            thread.join()
            self.phases.append(Phase(name, seconds, processor_seconds, max(*peak, private_bytes())))
