"""Run the tests of the simulated accelerator on a real device, and count what they found.

Tests of the simulation itself, and those that count its operators, are skipped there.

Run: python -m benchmarks.gpu.device_tests [--device cuda] [--short] [--json FILE]
"""

import os
import sys
from collections import Counter

import pytest

from benchmarks.gpu.part import Part, run_part
from benchmarks.models import DEMO
from nas.common.devices import is_accelerator

_SHORT = ("test_backend.py", "test_step_operators.py")


class _Outcomes:
    """Collects the outcome of each test."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: when it has run, or when its set-up has ended it."""
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
            if report.outcome == "failed":
                self.failed.append(report.nodeid)


def measure(part: Part) -> bool:
    """Run the tests, write their outcomes, and return whether any failed."""
    outcomes, root = _Outcomes(), DEMO.parent.parent
    if not is_accelerator(part.device):
        print("device tests: none for the CPU, whose results they compare with")
        part.write({"outcomes": {}, "failed": []})
        return False
    os.environ["NAS_TEST_DEVICE"] = str(part.device)
    folder = root / "tests" / "accelerator"
    chosen = [str(folder / name) for name in _SHORT] if part.is_short else [str(folder)]
    status = pytest.main(["-m", "accelerator", "-q", "-p", "no:cacheprovider", *chosen], plugins=[outcomes])
    part.write({"outcomes": dict(outcomes.counts), "failed": outcomes.failed, "status": int(status)})
    return status != pytest.ExitCode.OK


def main(arguments: list[str] | None = None) -> int:
    """Run the tests, and return the exit status."""
    return run_part(__doc__, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
