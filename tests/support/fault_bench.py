"""Searches of a small project that are killed, damaged or run out of disk space, compared with an undisturbed one."""

import json
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from nas.run.directory import CONFIG
from tests.support.fault_records import MODELS, Damage, Ending, Findings, Stroke
from tests.support.project import build_project
from tests.support.real_driver import PHASES, RealDriver, finished_models
from tests.support.small_disk import resize, tmpfs

PHASE_ORDER = tuple(PHASES)
RAY_PROCESSES = ("raylet", "gcs_server")
"""The processes of Ray itself that are killed as well."""

_AHEAD = 3
_WORKERS = (1, 2, 2, 4)
_SESSION_SECONDS = 240.0
_ALL_GONE_SECONDS = 120.0  # Ray's agents check from time to time whether their node is alive


class Bench:
    """Runs searches on the toy project and records what goes wrong.

    Args:
        work: Path of the working directory.
        seed: The seed of the random moments.
        is_quick: Whether the search is a shorter one.
    """

    def __init__(self, work: Path, seed: int, *, is_quick: bool) -> None:
        self.work = work
        self.rng = random.Random(seed)
        self.findings = Findings()
        self.kills: Counter[tuple[str, str]] = Counter()
        self.worker_exit_seconds = 0.0
        self.drivers: list[RealDriver] = []
        self.cache = work / "cache"
        self.is_quick = is_quick
        project = build_project(work / "project", samples=300, colour_noise=200)
        length = {"supernet.steps": 60, "recipe.epochs": 2, "search.finalists": 1, "budget.trials": 6}
        if not is_quick:
            length = {"supernet.steps": 200, "recipe.epochs": 5, "search.finalists": 3, "budget.trials": 16}
        self.source = project.write(
            "faults.yaml", **length, **{"supernet.architectures_per_step": 2, "supernet.checkpoint_steps": 10}
        )
        self.phase_seconds: dict[str, float] = {}
        self.reference = Ending({}, {}, {})

    # Sessions

    def drive(self, run: Path, workers: int, cache: Path | None = None, options: tuple[str, ...] = ()) -> RealDriver:
        """Start the search in a run directory, or resume it."""
        what = (
            ("resume", run) if (run / CONFIG).exists() else ("search", self.source, "--deterministic", "--run-dir", run)
        )
        directory = self.work / "sessions" / str(len(self.drivers))
        common = ("--workers", str(workers), "--cache-dir", str(cache or self.cache), *options)
        driver = RealDriver(*what, *common, directory=directory)
        self.drivers.append(driver)
        return driver

    def finish(self, driver: RealDriver, what: str) -> int | None:
        """Wait for a driver to end; returns its exit status, or None for a hang, which is recorded."""
        try:
            status = driver.finish(_SESSION_SECONDS)
        except subprocess.TimeoutExpired:
            driver.end_everything()
            self.findings.unclear.append(f"{what}: hangs in {driver.phase}: {_last_line(driver.output)}")
            return None
        if "Traceback" in driver.errors:
            self.findings.unclear.append(f"{what}: a traceback: {_last_line(driver.errors)}")
        return status

    def finish_well(self, driver: RealDriver, what: str) -> bool:
        """Wait for a driver to finish its search; records anything else that it does."""
        status = self.finish(driver, what)
        if status == 0 and not driver.errors:
            return True
        if status is not None:
            reported = _last_line(driver.errors)
            self.findings.unclear.append(f"{what}: status {status} instead of a finished search: {reported}")
        return False

    def finish_refused(self, driver: RealDriver, what: str, named: str) -> None:
        """Wait for a driver to end with one error that names something; records anything else that it does."""
        status = self.finish(driver, what)
        is_clear = driver.errors.startswith("error: ") and named in driver.errors
        if status is not None and (status != 2 or not is_clear):
            reported = _last_line(driver.errors) or _last_line(driver.output)
            self.findings.unclear.append(f"{what}: status {status} instead of an error that names {named}: {reported}")

    def compare(self, run: Path, what: str, reported: list[tuple[str, str, str]]) -> None:
        """Record differences from the undisturbed search and from the results that the drivers reported.

        Args:
            run: The run directory of a finished search.
            what: The name of the search.
            reported: The number, stage and score of every result that its drivers reported.
        """
        ending, reference = Ending.of(run), self.reference
        for key in ending.trials.keys() | reference.trials.keys():
            if ending.trials.get(key) != reference.trials.get(key):
                found, expected = ending.trials.get(key, "nothing"), reference.trials.get(key, "nothing")
                self.findings.differing.append(f"{what}: {key[0]} {key[1]}: {found} instead of {expected}")
        for role in MODELS:
            if ending.models[role] != reference.models[role]:
                self.findings.differing.append(f"{what}: the exported model {role}")
        for (trial, stage), count in Counter((trial, stage) for trial, stage, _ in reported).items():
            if count > 1:
                self.findings.lost.append(f"{what}: trial {trial} {stage} was finished {count} times")
        for trial, stage, score in reported:
            if ending.scores.get((trial, stage)) != score:
                self.findings.lost.append(f"{what}: trial {trial} {stage} {score} is not in the study")

    def run_undisturbed(self, workers: int) -> Path:
        """Run the search with which all others are compared."""
        run = self.work / "undisturbed"
        started = time.monotonic()
        driver = self.drive(run, workers)
        marks = {}
        for phase in PHASE_ORDER:
            if driver.wait_for(PHASES[phase], _SESSION_SECONDS):
                marks[phase] = time.monotonic() - started
        if not self.finish_well(driver, "undisturbed") or len(marks) < len(PHASE_ORDER):
            raise SystemExit(f"the undisturbed search failed:\n{driver.output}\n{driver.errors}")
        ends = [*list(marks.values())[1:], time.monotonic() - started]
        self.phase_seconds = {phase: end - marks[phase] for phase, end in zip(PHASE_ORDER, ends, strict=True)}
        self.reference = Ending.of(run)
        scores = [entry["score"] for entry in map(json.loads, self.reference.trials.values())]
        if len(set(scores)) < 3:
            raise SystemExit(f"expected at least 3 different scores, got {scores}")
        return run

    # Kills

    def run_killed(self, run: Path, kills: int, strokes: Callable[[str], list[Stroke]]) -> int:
        """Run a whole search with a limited number of kills; returns the number of kills.

        Args:
            run: The run directory.
            kills: The largest number of kills.
            strokes: Function that plans the kills of a session, given the phase that the search has reached; the kill
                of the driver comes last.
        """
        reported: list[tuple[str, str, str]] = []
        count, reached, is_killed = 0, PHASE_ORDER[0], True
        while is_killed:
            planned = strokes(reached)[count - kills :] if count < kills else []
            driver = self.drive(run, self.workers(planned))
            is_killed = False
            for stroke in planned:
                phase = self.strike(driver, stroke)
                if phase is not None:
                    count += 1
                    self.kills[stroke.victim, phase] += 1
                    is_killed = stroke.victim == "driver"
            what = f"{run.name}, {driver.directory.name}"
            if is_killed:
                self.check_workers_go(driver, what)
                if "Traceback" in driver.errors:
                    self.findings.unclear.append(f"{what}: a traceback: {_last_line(driver.errors)}")
            elif not self.finish_well(driver, what):
                return count
            reported += finished_models(driver.output)
            reached = max(reached, driver.phase, key=PHASE_ORDER.index)
        self.compare(run, run.name, reported)
        return count

    def workers(self, planned: list[Stroke]) -> int:
        """Return the number of workers of a session; 0 finishes fastest."""
        if self.is_quick:
            return 2 if planned else 0
        return self.rng.choice(_WORKERS)

    def strike(self, driver: RealDriver, stroke: Stroke) -> str | None:
        """Wait for the moment and kill; returns the phase of the kill, or None if no process was left."""
        later = "|".join(PHASES[phase] for phase in PHASE_ORDER[PHASE_ORDER.index(stroke.phase) :])
        if not driver.wait_for(later, _SESSION_SECONDS):
            return None
        until = time.monotonic() + stroke.delay_share * self.phase_seconds[stroke.phase]
        while time.monotonic() < until and driver.is_running:
            time.sleep(0.005)
        if not driver.is_running:
            return None
        phase = driver.phase
        if stroke.victim in RAY_PROCESSES:
            return phase if driver.kill_ray(stroke.victim) else None
        if stroke.victim == "worker":
            return phase if driver.kill_worker(self.rng.randrange(4)) else None
        driver.kill()
        return phase

    def plan(self, reached: str) -> list[Stroke]:
        """Plan the kills of one session, that of the driver last, in the phases with the fewest kills so far."""
        first = PHASE_ORDER.index(reached)
        # Not far ahead, so that each search is killed several times.
        last = self.fewest("driver", sorted({0, *range(first, len(PHASE_ORDER))[:_AHEAD]}))
        strokes = []
        among = range(max(first, 1), min(PHASE_ORDER.index(last), 4) + 1)
        for _ in range(self.rng.choice((0, 1, 1, 2)) if among else 0):
            victim = self.rng.choice(("worker", "worker", *RAY_PROCESSES))
            strokes.append(Stroke(victim, self.fewest(victim, list(among)), self.rng.random()))
        strokes.sort(key=lambda stroke: PHASE_ORDER.index(stroke.phase))
        return [*strokes, Stroke("driver", last, self.rng.random())]

    def fewest(self, victim: str, places: list[int]) -> str:
        fewest = min(self.kills[victim, PHASE_ORDER[place]] for place in places)
        return PHASE_ORDER[
            self.rng.choice([place for place in places if self.kills[victim, PHASE_ORDER[place]] == fewest])
        ]

    def check_workers_go(self, driver: RealDriver, what: str) -> None:
        """Record workers that outlive their driver, because they could write into a resumed run."""
        seconds = driver.seconds_until_workers_end()
        if seconds is None:
            self.findings.unclear.append(f"{what}: workers outlive their driver")
            driver.end_everything()
        else:
            self.worker_exit_seconds = max(self.worker_exit_seconds, seconds)

    def count_left_processes(self) -> int:
        """Wait for the processes of all drivers to end, and return the number of those that remain."""
        deadline = time.monotonic() + _ALL_GONE_SECONDS
        while True:
            left = sum(len(driver.processes()) for driver in self.drivers)
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(1.0)

    # Damage

    def state(self, name: str, pattern: str, file: str | None = None) -> tuple[Path, list[tuple[str, str, str]]]:
        """Return a run directory whose driver was killed at a line of its output, and the results that it reported.

        Args:
            name: The name of the state and of the directory.
            pattern: The pattern of the line.
            file: A file of the run directory that must exist as well before the kill.
        """
        run = self.work / name
        driver = self.drive(run, 2)
        is_there = driver.wait_for(pattern, _SESSION_SECONDS)
        while is_there and file is not None and driver.is_running and not (run / file).exists():
            time.sleep(0.005)
        driver.kill()
        if not is_there or (file is not None and not (run / file).exists()):
            raise SystemExit(f"the search for {name} failed:\n{driver.output}\n{driver.errors}")
        self.check_workers_go(driver, name)
        return run, finished_models(driver.output)

    def run_damaged(self, damage: Damage, workers: int, *, is_mended: bool) -> None:
        """Damage a copy of a run and resume it."""
        what = f"damage: {damage.name}"
        place = self.work / "damaged" / "".join(letter if letter.isalnum() else "_" for letter in damage.name)
        run, cache = place / "run", place / "cache"
        shutil.copytree(damage.state, run)
        shutil.copytree(self.cache, cache)
        damage.harm(run, cache)
        driver = self.drive(run, workers, cache)
        if damage.refused_by is not None:
            self.finish_refused(driver, what, damage.refused_by)
            if not is_mended:
                return
            damage.mend(run, damage.state)
            driver = self.drive(run, workers, cache, damage.mended_options)
        if self.finish_well(driver, what):
            if damage.notice not in driver.output:
                self.findings.unclear.append(f"{what}: the damage was not reported")
            reported = [*damage.reported, *finished_models(driver.output)]
            self.compare(run, what, reported)

    # Disk

    def fill_disk(self) -> int:
        """Run a search on a disk that is too small, and enlarge it each time; returns the number of failures.

        Raises:
            subprocess.CalledProcessError: If mounting is not permitted.
        """
        total = sum(path.stat().st_size for path in (self.work / "undisturbed").rglob("*"))
        with tmpfs(self.work / "disk", total // 10) as disk:
            run, reported, refusals = disk / "run", [], 0
            cache = disk / "cache"
            # Room for: no features; no frozen weights; no supernet; no exported model; everything.
            for share in (0.2, 0.75, 0.95, 1.2, 20.0):
                resize(disk, int(total * share))
                driver = self.drive(run, 2, cache)
                what = f"disk of {int(total * share) // 1024} KiB"
                status = self.finish(driver, what)
                reported += finished_models(driver.output)
                if status == 0:
                    self.compare(run, what, reported)
                    break
                refusals += 1
                if status is not None and (status != 2 or not _is_disk_error(driver.errors, disk)):
                    reason = _last_line(driver.errors)
                    self.findings.unclear.append(f"{what}: status {status}, not an error about the disk: {reason}")
            else:
                self.findings.unclear.append("disk: the search does not finish with enough space")
        return refusals


def _is_disk_error(errors: str, disk: Path) -> bool:
    is_reason = "No space left" in errors or "the disk is too full" in errors
    return errors.startswith("error: ") and is_reason and str(disk) in errors


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "(nothing)"
