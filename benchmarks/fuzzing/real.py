"""Run cases as real processes: the program as a user starts it."""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from benchmarks.fuzzing.cases import COMMANDS, filled
from benchmarks.fuzzing.engine import VALID, Case, CaseSource, project_of, resident_bytes, written
from benchmarks.fuzzing.outcomes import Expectation, Outcome, limit_seconds, without_places

_POLL_SECONDS = 0.1
_PROGRAM = Path(__file__).resolve().parents[2] / "run_search.py"


def _run(case: Case, source: CaseSource) -> Outcome:
    """Run a case; one that takes too long is run a second time, since other load may have delayed it."""
    first = _run_once(case, source)
    return first if first.status is not None else _run_once(case, source)


def _run_once(case: Case, source: CaseSource) -> Outcome:
    with (
        project_of(case, source) as (root, mutation),
        tempfile.TemporaryDirectory(dir=source.work) as cache,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        words = [word.replace("\ud800", "?") for word in filled(mutation.command, root, Path(cache))]
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), *words], stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )
        peak_bytes, is_ended = _watch(process, started + limit_seconds(mutation.command, source.patience))
        seconds = time.monotonic() - started
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(without_places(file.read().decode(errors="backslashreplace"), root, Path(cache)))
        return Outcome(
            case=case,
            description=mutation.description,
            command=mutation.command,
            status=None if is_ended else process.returncode,
            output=texts[0],
            errors=texts[1],
            seconds=seconds,
            grown_bytes=peak_bytes,
            is_known=mutation.is_known,
            files=written(root),
            patience=source.patience,
        )


def _watch(process: "subprocess.Popen[bytes]", deadline: float) -> tuple[int, bool]:
    """Wait for a process, and kill it at a deadline.

    Its peak is read while it runs: what the system tells about an ended one includes the fork of this process.

    Args:
        process: The process.
        deadline: The deadline on the monotonic clock.

    Returns:
        The peak of its resident memory in bytes, and whether it was killed.
    """
    peak_bytes = 0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_POLL_SECONDS)
            return peak_bytes, False
        peak_bytes = max(peak_bytes, resident_bytes(process.pid, "VmHWM"))
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            return peak_bytes, True


def real_outcomes(cases: Iterable[Case], source: CaseSource, *, processes: int) -> Iterator[Outcome]:
    """Yield the outcomes of cases as they end; see `benchmarks.fuzzing.engine.outcomes`."""
    with ThreadPoolExecutor(processes) as pool:
        for future in as_completed([pool.submit(_run, case, source) for case in cases]):
            yield future.result()


def real_valid_outcomes(source: CaseSource, names: Sequence[str]) -> Mapping[str, Expectation]:
    """Return the outcome of commands for the valid project, by the names of `COMMANDS`.

    Raises:
        RuntimeError: If a command fails.
    """
    found = {}
    for name in names:
        outcome = _run((VALID, list(COMMANDS).index(name)), source)
        if outcome.status != 0:
            raise RuntimeError(f"{name} fails for the valid project after {outcome.seconds:.0f} s: {outcome.errors}")
        found[name] = Expectation.of([outcome])
    return found
