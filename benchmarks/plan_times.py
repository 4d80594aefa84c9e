"""Compare the times that a search announces after the first steps of its supernet with those that its phases take.

Prints for each phase the announced and the measured seconds and their ratio. The aim is 0.7 to 1.3 for every phase of
more than a minute. Run on a quiet machine: python -m benchmarks.plan_times [--budget 4m] [--quick]
"""

import argparse
import re
import tempfile
import time
from pathlib import Path

from benchmarks.models import DEMO
from nas.common.progress import Reporter
from nas.common.units import parse_seconds
from nas.config.overrides import Overrides
from nas.run.executors import ExecutionOptions
from nas.run.search import start
from nas.run.tables import text_table

QUICK_SECONDS = 70.0
ENDS = {
    "supernet": "Supernet: ",
    "screening": "Phase: full training",
    "full training": "confirmation",
    "reruns": "Search: ",
}
"""The announced phases, and how the note or the progress that ends each of them begins."""

_ANNOUNCEMENT = "Estimated from the first steps: "
_CORRECTION = "Supernet: supernet.steps"


class PhaseWatch(Reporter):
    """Shows the notes of a search, and measures its phases from the announcement of their times on."""

    def __init__(self) -> None:
        self.announced: list[float] = []
        self.measured: dict[str, float] = {}
        self._since = 0.0

    def note(self, text: str) -> None:
        print(text, flush=True)
        if text.startswith(_ANNOUNCEMENT):
            times = re.findall(r"(\S+)(?: →|$)", text)
            self.announced, self._since = [parse_seconds(entry) for entry in times], time.monotonic()
        elif not text.startswith(_CORRECTION):
            self._see(text)

    def progress(self, phase: str, done: int, total: int | None, detail: str = "") -> None:
        del done, total, detail
        self._see(phase)

    def _see(self, text: str) -> None:
        """End the running phase if a text is its end."""
        running = next((phase for phase in ENDS if phase not in self.measured), None)
        if self.announced and running is not None and text.startswith(ENDS[running]):
            now = time.monotonic()
            self.measured[running], self._since = now - self._since, now


def main() -> None:
    """Run the search of the demo and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=parse_seconds, default=240.0, help="time budget (default: 4m)")
    parser.add_argument("--workers", type=int, default=2, help="number of workers (default: 2)")
    parser.add_argument("--quick", action="store_true", help=f"trial run of {QUICK_SECONDS:.0f} seconds")
    options = parser.parse_args()
    budget = QUICK_SECONDS if options.quick else options.budget
    watch = PhaseWatch()
    with tempfile.TemporaryDirectory() as name:
        start(DEMO, Path(name) / "run", Overrides(time_seconds=budget), ExecutionOptions(options.workers), watch)
    if not watch.announced:
        raise SystemExit(
            "the search ended before it announced its times; expected a larger --budget or a quiet machine"
        )
    rows = [
        (phase, f"{planned:.0f} s", f"{watch.measured[phase]:.1f} s", f"{watch.measured[phase] / planned:.2f}")
        for phase, planned in zip(ENDS, watch.announced, strict=True)
        if phase in watch.measured and planned
    ]
    print(text_table(("phase", "announced", "measured", "ratio"), rows))


if __name__ == "__main__":
    main()
