"""What a command did with mutated input, and which of the four faults it is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.fuzzing.cases import TRAINS
from benchmarks.fuzzing.messages import why_unclear

FAULTS = ("tracebacks", "hangs", "unclear", "silent")
GIBIBYTE = 1024**3
_SECONDS, _TRAINING_SECONDS = 10.0, 60.0
_USER_ERROR = 2

_MEASURED = re.compile(r"\b\d+(?:\.\d+)? ?(?:ms|s|m|h|%|B|[KMG]iB)(?![\w])|\b[0-9a-f]{12,}\b")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_BLANKS = re.compile(r"[\s-]+")


def limit_seconds(command: Sequence[str], patience: float) -> float:
    """Return the seconds after which a command counts as hanging; see `Outcome.patience`."""
    return patience * (_TRAINING_SECONDS if command[0] in TRAINS else _SECONDS)


@dataclass(frozen=True)
class Outcome:
    """The end of one command.

    Args:
        case: The kind and number of the case.
        description: The mutation.
        command: The words of the command line.
        status: The exit status; negative for a signal, None if the command was ended after its time limit.
        output: Everything on standard output.
        errors: Everything on standard error, and the traceback of an exception that the program did not handle.
        seconds: Wall-clock seconds.
        grown_bytes: Resident memory at the peak, less that at the start.
        is_known: See `Mutation`.
        files: A digest of the files that the command wrote and that hold its result.
        patience: How many times longer than on a quiet machine the command may take.
    """

    case: tuple[str, int]
    description: str
    command: tuple[str, ...]
    status: int | None
    output: str
    errors: str
    seconds: float
    grown_bytes: int
    is_known: bool = False
    files: str = ""
    patience: float = 1.0

    @property
    def is_late(self) -> bool:
        """Whether the command took longer than it may."""
        return self.status is None or self.seconds > limit_seconds(self.command, self.patience)

    def result(self) -> frozenset[str]:
        """Return the lines of standard output without what is measured."""
        return frozenset(_BLANKS.sub(" ", _MEASURED.sub("#", line)) for line in [*self.output.splitlines(), self.files])

    def forms(self) -> frozenset[str]:
        """Return the lines of both streams with `0` for each number: equal for lines that differ in numbers only."""
        lines = f"{self.output}\n{self.errors}".splitlines()
        return frozenset(_NUMBER.sub("0", _BLANKS.sub(" ", _MEASURED.sub("#", line))) for line in lines)


@dataclass(frozen=True)
class Expectation:
    """What a command does with the valid project, over several runs: the first one finds nothing cached.

    Args:
        grown_bytes: The memory that it takes; see `Outcome`.
        always: The lines of the result of every run.
        ever: The lines of the result of any run.
        forms: The forms of all lines of any run.
    """

    grown_bytes: int
    always: frozenset[str]
    ever: frozenset[str]
    forms: frozenset[str]

    @classmethod
    def of(cls, runs: Sequence[Outcome]) -> "Expectation":
        """Return what several runs have in common, and what any of them gives."""
        results = [run.result() for run in runs]
        return cls(
            grown_bytes=max(run.grown_bytes for run in runs),
            always=frozenset.intersection(*results),
            ever=frozenset.union(*results),
            forms=frozenset.union(*(run.forms() for run in runs)),
        )

    def differences(self, outcome: Outcome) -> list[str]:
        """Return the lines by which the result of an outcome differs from the expected one."""
        result = outcome.result()
        return sorted(result - self.ever) + sorted(f"(no) {line}" for line in self.always - result)


def fault_of(outcome: Outcome, valid: Expectation) -> tuple[str, str] | None:
    """Return the fault of an outcome, one of `FAULTS`, and what it is; None if there is none.

    Args:
        outcome: The outcome for a mutated input.
        valid: What the same command does with the valid one.
    """
    finders = (_hang, _traceback, _unclear, _silent)
    return next((fault for find in finders if (fault := find(outcome, valid)) is not None), None)


_Fault: TypeAlias = "tuple[str, str] | None"


def _hang(outcome: Outcome, valid: Expectation) -> _Fault:
    if outcome.is_late:
        return "hangs", f"{outcome.seconds:.0f} s"
    if outcome.grown_bytes > valid.grown_bytes + GIBIBYTE:
        return "hangs", f"{outcome.grown_bytes / GIBIBYTE:.1f} GiB more than before"
    return None


def _traceback(outcome: Outcome, valid: Expectation) -> _Fault:
    del valid
    if "Traceback (most recent call last)" in f"{outcome.output}{outcome.errors}":
        return "tracebacks", next((line for line in reversed(outcome.errors.splitlines()) if line.strip()), "")
    if outcome.status not in (0, _USER_ERROR):
        return "tracebacks", f"exit status {outcome.status}: {outcome.errors[-300:]}"
    return None


def _unclear(outcome: Outcome, valid: Expectation) -> _Fault:
    del valid
    reason = why_unclear(outcome.errors) if outcome.status == _USER_ERROR else None
    return None if reason is None else ("unclear", f"{reason}: {outcome.errors.strip()[:600]}")


def _silent(outcome: Outcome, valid: Expectation) -> _Fault:
    if outcome.status == 0 and outcome.is_known and outcome.forms() <= valid.forms:
        lines = valid.differences(outcome)
        return ("silent", " | ".join(lines)[:600]) if lines else None
    return None


def without_places(text: str, root: Path, cache: Path) -> str:
    """Return a text with the folders of a case replaced by fixed names, so that cases can be compared."""
    return text.replace(str(cache), "CACHE").replace(str(root), "ROOT")
