"""Run cases in forked processes that share the imported libraries, and watch their time and memory."""

import contextlib
import hashlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any

import torch

from benchmarks.fuzzing.cases import COMMANDS, Mutation, Mutator, filled
from benchmarks.fuzzing.data_sets import mutate_data_set
from benchmarks.fuzzing.model_files import mutate_checkpoint, mutate_model_folder, mutate_run_directory
from benchmarks.fuzzing.outcomes import GIBIBYTE, Expectation, Outcome, limit_seconds, without_places
from benchmarks.fuzzing.search_files import mutate_search_file
from nas.cli import main

SEARCH_FILE = "search file"
KINDS: Mapping[str, Mutator] = {
    SEARCH_FILE: mutate_search_file,
    "data set": mutate_data_set,
    "checkpoint": mutate_checkpoint,
    "model folder": mutate_model_folder,
    "run directory": mutate_run_directory,
}
VALID = "valid"

Case = tuple[str, int]
"""A kind of `KINDS` and a number; or `VALID` and the index of a command."""

_MAX_GROWTH = 4 * GIBIBYTE
_LINKED = ("images", "vit", "bert", "manifest.csv")
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class CaseSource:
    """Where cases come from.

    Args:
        seed: The seed of all cases.
        base: The valid project.
        work: The folder for copies.
        plant: A context in which a fault is planted in the program.
        patience: See `Outcome.patience`.
    """

    seed: int
    base: Path
    work: Path
    plant: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    patience: float = 1.0


@contextlib.contextmanager
def project_of(case: Case, source: CaseSource) -> Iterator[tuple[Path, Mutation]]:
    """Yield a mutated copy of the valid project, which is removed afterwards.

    Args:
        case: The kind and number of the case.
        source: The valid project and the seed.
    """
    base = source.base
    kind, number = case
    root = Path(tempfile.mkdtemp(dir=source.work, prefix="case-"))
    try:
        if kind == SEARCH_FILE:  # the only kind that leaves the other files alone
            for name in _LINKED:
                (root / name).symlink_to(base / name)
            shutil.copy(base / "search.yaml", root)
        else:
            shutil.copytree(base, root, dirs_exist_ok=True)
        if kind == VALID:
            yield root, Mutation("nothing", list(COMMANDS.values())[number], is_known=True)
        else:
            yield root, KINDS[kind](root, random.Random(f"{source.seed} {kind} {number}"))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def written(root: Path) -> str:
    """Return a digest of the weights of the models that a command has written into new folders."""
    digest = hashlib.sha256()
    for path in sorted([*root.glob("exported/*.safetensors"), *root.glob("new/best/*.safetensors")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


class _Streams:
    """Standard output and error of this process, in files that are read after each case."""

    def __init__(self) -> None:
        self._files: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        for descriptor, file in zip((1, 2), self._files, strict=True):
            os.dup2(file.fileno(), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def take(self) -> tuple[str, str]:
        texts = []
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode(errors="backslashreplace"))
            file.truncate(0)
            file.seek(0)
        return texts[0], texts[1]


def resident_bytes(process: int | str, name: str = "VmRSS") -> int:
    """Return the resident memory of a process, now or at its peak; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _work(connection: Connection, inherited: Sequence[Connection], source: CaseSource) -> None:
    """Run the cases that arrive, one after the other, and send their outcomes."""
    for other in inherited:  # otherwise this process would not notice that the one that sends cases has ended
        other.close()
    streams = _Streams()
    torch.set_num_threads(1)
    cache = Path(tempfile.mkdtemp(dir=source.work, prefix="cache-"))
    with project_of((VALID, 0), source) as (root, mutation):  # the first use of torch's tracing takes seconds
        main(filled(mutation.command, root, cache))
    streams.take()
    connection.send(None)
    while (case := connection.recv()) is not None:
        with project_of(case, source) as (root, mutation), source.plant():
            command = filled(mutation.command, root, cache)
            connection.send((mutation.description, tuple(command)))  # known if this process has to be ended
            started, before = time.monotonic(), resident_bytes("self")
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            trace = ""
            try:
                status: Any = main(command)
            except SystemExit as ending:
                status = ending.code
            except BaseException:
                status, trace = 1, traceback.format_exc()
            seconds, grown = time.monotonic() - started, resident_bytes("self", "VmHWM") - before
            output, errors = (without_places(text, root, cache) for text in streams.take())
            outcome = Outcome(
                case=case,
                description=mutation.description,
                command=mutation.command,
                status=status if isinstance(status, int) else 1,
                output=output,
                errors=f"{errors}{trace}",
                seconds=seconds,
                grown_bytes=grown,
                is_known=mutation.is_known,
                files=written(root),
                patience=source.patience,
            )
        connection.send(outcome)


class _Worker:
    """A forked process that runs one case at a time; it is replaced when a case hangs or ends it."""

    def __init__(self, source: CaseSource, others: Sequence["_Worker"]) -> None:
        self._source, self._others = source, others
        self.case: Case | None = None
        self._started = 0.0
        self._resident = 0
        self._start()

    def _start(self) -> None:
        self.is_ready = False
        self._announced: tuple[str, tuple[str, ...]] = ("", ())
        self.connection, theirs = _FORK.Pipe()
        inherited = [self.connection, *(worker.connection for worker in self._others if worker is not self)]
        self._process: BaseProcess = _FORK.Process(target=_work, args=(theirs, inherited, self._source), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, case: Case) -> None:
        self.case, self._announced = case, ("", ())
        self._resident = resident_bytes(self._process.pid or 0)
        self.connection.send(case)

    def receive(self) -> Outcome | None:
        """Return the outcome, if it is what has arrived."""
        try:
            received = self.connection.recv()
        except EOFError:
            self._process.join()
            if not self._announced[1]:
                raise RuntimeError(f"the benchmark itself fails: {self.case}") from None
            return self._ended(self._process.exitcode)
        if received is None:
            self.is_ready = True
            return None
        if isinstance(received, Outcome):
            self.case = None
            return received
        self._announced, self._started = received, time.monotonic()
        return None

    def watch(self) -> Outcome | None:
        """End the process if its case takes too long or too much memory; return the outcome of that."""
        _, command = self._announced
        if not command:
            return None
        grown = resident_bytes(self._process.pid or 0) - self._resident
        if time.monotonic() - self._started <= limit_seconds(command, self._source.patience) and grown <= _MAX_GROWTH:
            return None
        self._process.kill()
        self._process.join()
        return self._ended(None, grown)

    def _ended(self, status: int | None, grown: int = 0) -> Outcome:
        assert self.case is not None
        description, command = self._announced
        seconds = time.monotonic() - self._started
        errors, patience = "the process has ended", self._source.patience
        outcome = Outcome(self.case, description, command, status, "", errors, seconds, grown, patience=patience)
        self.case = None
        self.connection.close()
        self._start()
        return outcome

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self._process.join(5)
        self._process.kill()


def outcomes(cases: Iterable[Case], source: CaseSource, *, processes: int) -> Iterator[Outcome]:
    """Yield the outcomes of cases as they end.

    A case that has hung is run a second time, since other load may have delayed it; the shorter time counts.

    Args:
        cases: The cases.
        source: The valid project and the seed.
        processes: The number of cases that run at a time.
    """
    waiting, repeated = list(cases)[::-1], set[Case]()
    workers: list[_Worker] = []
    try:
        for _ in range(processes):
            workers.append(_Worker(source, workers))
        while waiting or any(worker.case for worker in workers):
            for worker in workers:
                if worker.is_ready and worker.case is None and waiting:
                    worker.begin(waiting.pop())
            busy = {worker.connection: worker for worker in workers if worker.case is not None or not worker.is_ready}
            ready = wait(list(busy), timeout=0.1)
            for connection, worker in busy.items():
                outcome = worker.receive() if connection in ready else worker.watch()
                if outcome is None:
                    continue
                if outcome.is_late and outcome.case not in repeated:
                    repeated.add(outcome.case)
                    waiting.append(outcome.case)
                else:
                    yield outcome
    finally:
        for worker in workers:
            worker.stop()


def valid_outcomes(source: CaseSource) -> Mapping[str, Expectation]:
    """Return what each command does with the valid project, by name.

    Raises:
        RuntimeError: If a command fails.
    """
    runs: dict[str, list[Outcome]] = {name: [] for name in COMMANDS}
    for outcome in outcomes([(VALID, index) for index in range(len(COMMANDS))] * 2, source, processes=1):
        name = list(COMMANDS)[outcome.case[1]]
        if outcome.status != 0:
            raise RuntimeError(f"{name} fails for the valid project after {outcome.seconds:.0f} s: {outcome.errors}")
        runs[name].append(outcome)
    return {name: Expectation.of(ended) for name, ended in runs.items()}
