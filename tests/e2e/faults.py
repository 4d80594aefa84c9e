"""Kill a search repeatedly, fill its disk and damage its files; count lost trials, other results and unclear errors.

A small deterministic search runs undisturbed once, in its own process with Ray workers. The same search is then run
while its driver or one of its workers is killed (`kill -9`) at random moments of every phase. It is resumed after each
kill, with another number of workers, and compared with the undisturbed search when it has finished. Then its disk fills
up, which requires the right to mount a small tmpfs, and its files are damaged one by one.

- lost_trials: trials that the program reported as finished and that are not in the study, or were run again.
- differing_trials: results and exported models that differ from those of the undisturbed search.
- unclear_errors: tracebacks, exits without a reason, reasons that do not name the file, hangs, and searches that the
  death of a worker has ended.

Run: python -m tests.e2e.faults [--kills 100] [--seed 0] [--json FILE] [--quick]
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nas.run.directory import CONFIG, open_study, read_run
from nas.run.results_csv import canonical_results
from nas.run.tables import text_table
from tests.support.project import build_project
from tests.support.real_driver import PHASES, RealDriver, finished_models

_ORDER = tuple(PHASES)
_KILLS_A_SEARCH = 10
_AHEAD = 3
_WORKERS = (1, 2, 2, 4)
_SESSION_SECONDS = 240.0
_ALL_GONE_SECONDS = 120.0  # Ray's agents check from time to time whether their node is alive
_NOT_WAITED_FOR = "not counted: --quick"
_MODELS = ("best", "default")


@dataclass
class Findings:
    """Descriptions of everything that went wrong."""

    lost: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        return {
            "lost_trials": len(self.lost),
            "differing_trials": len(self.differing),
            "unclear_errors": len(self.unclear),
        }


@dataclass(frozen=True)
class Ending:
    """The results of a finished search.

    Args:
        trials: The line of the canonical results, by stage and number.
        scores: The score as the program prints it, with three digits, by number and stage.
        models: The weights of the exported models.
    """

    trials: dict[tuple[str, int], str]
    scores: dict[tuple[str, str], str]
    models: dict[str, bytes]

    @classmethod
    def of(cls, run: Path) -> "Ending":
        with open_study(run, read_run(run)) as study:
            lines = canonical_results(study).splitlines()
        entries = [json.loads(line) for line in lines]
        default = json.loads((run / "default.json").read_text())
        scored = [entry for entry in entries if entry["status"] == "finished"]
        return cls(
            trials={(entry["stage"], entry["trial"]): line for entry, line in zip(entries, lines, strict=True)},
            scores={(str(entry["trial"]), entry["stage"]): f"{entry['score']:.3f}" for entry in scored}
            | {("default", "full"): f"{default['score']:.3f}"},
            models={role: (run / role / "model.safetensors").read_bytes() for role in _MODELS},
        )


@dataclass(frozen=True)
class Stroke:
    """A planned kill.

    Args:
        victim: `driver` or `worker`.
        phase: The phase that must have begun.
        delay_share: The delay after that, as a share of the duration of the phase in the undisturbed search.
    """

    victim: str
    phase: str
    delay_share: float


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

    def drive(self, run: Path, workers: int, cache: Path | None = None) -> RealDriver:
        """Start the search in a run directory, or resume it."""
        what = (
            ("resume", run) if (run / CONFIG).exists() else ("search", self.source, "--deterministic", "--run-dir", run)
        )
        directory = self.work / "sessions" / str(len(self.drivers))
        common = ("--workers", str(workers), "--cache-dir", cache or self.cache)
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
        for role in _MODELS:
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
        for phase in _ORDER:
            if driver.wait_for(PHASES[phase], _SESSION_SECONDS):
                marks[phase] = time.monotonic() - started
        if not self.finish_well(driver, "undisturbed") or len(marks) < len(_ORDER):
            raise SystemExit(f"the undisturbed search failed:\n{driver.output}\n{driver.errors}")
        ends = [*list(marks.values())[1:], time.monotonic() - started]
        self.phase_seconds = {phase: end - marks[phase] for phase, end in zip(_ORDER, ends, strict=True)}
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
        count, reached, is_killed = 0, _ORDER[0], True
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
            reached = max(reached, driver.phase, key=_ORDER.index)
        self.compare(run, run.name, reported)
        return count

    def workers(self, planned: list[Stroke]) -> int:
        """Return the number of workers of a session; 0 finishes fastest."""
        if self.is_quick:
            return 2 if planned else 0
        return self.rng.choice(_WORKERS)

    def strike(self, driver: RealDriver, stroke: Stroke) -> str | None:
        """Wait for the moment and kill; returns the phase of the kill, or None if no process was left."""
        later = "|".join(PHASES[phase] for phase in _ORDER[_ORDER.index(stroke.phase) :])
        if not driver.wait_for(later, _SESSION_SECONDS):
            return None
        until = time.monotonic() + stroke.delay_share * self.phase_seconds[stroke.phase]
        while time.monotonic() < until and driver.is_running:
            time.sleep(0.005)
        if not driver.is_running:
            return None
        phase = driver.phase
        if stroke.victim == "worker":
            return phase if driver.kill_worker(self.rng.randrange(4)) else None
        driver.kill()
        return phase

    def plan(self, reached: str) -> list[Stroke]:
        """Plan the kills of one session: workers, then the driver, in the phases with the fewest kills so far."""
        first = _ORDER.index(reached)
        # Not far ahead, so that each search is killed several times.
        last = self.fewest("driver", sorted({0, *range(first, len(_ORDER))[:_AHEAD]}))
        strokes = []
        among = range(max(first, 1), min(_ORDER.index(last), 4) + 1)
        for _ in range(self.rng.choice((0, 1, 1, 2)) if among else 0):
            strokes.append(Stroke("worker", self.fewest("worker", list(among)), self.rng.random()))
        strokes.sort(key=lambda stroke: _ORDER.index(stroke.phase))
        return [*strokes, Stroke("driver", last, self.rng.random())]

    def fewest(self, victim: str, places: list[int]) -> str:
        fewest = min(self.kills[victim, _ORDER[place]] for place in places)
        return _ORDER[self.rng.choice([place for place in places if self.kills[victim, _ORDER[place]] == fewest])]

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

    def run_damaged(self, damage: "Damage", workers: int, *, is_mended: bool) -> None:
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
            driver = self.drive(run, workers, cache)
        if self.finish_well(driver, what):
            if damage.notice not in driver.output:
                self.findings.unclear.append(f"{what}: the damage was not reported")
            reported = [*damage.reported, *finished_models(driver.output)]
            self.compare(run, what, [] if damage.loses_trials else reported)

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


@dataclass(frozen=True)
class Damage:
    """Damage to the files of a run, and its expected effect.

    Args:
        name: The name of the damage.
        state: The run directory that is copied.
        reported: The results that its driver reported.
        harm: Function that damages the copy or its cache.
        refused_by: A part of the expected error; None if the search must continue.
        mend: Function that follows the advice of the error, or restores the file from the original.
        notice: A part of the expected output of a search that continues.
        loses_trials: Whether some trials have to run again after mending.
    """

    name: str
    state: Path
    reported: list[tuple[str, str, str]]
    harm: Callable[[Path, Path], None]
    refused_by: str | None = None
    mend: Callable[[Path, Path], None] = lambda run, original: None
    notice: str = ""
    loses_trials: bool = False


def quick_damages(finished: Path) -> list[Damage]:
    """Return the damages that a driver detects within seconds."""
    return [
        Damage(
            "journal, flipped bytes",
            finished,
            [],
            lambda run, cache: flip(run / "journal.log"),
            "journal.log: line ",
            lambda run, original: keep_whole_lines(run / "journal.log", original / "journal.log"),
            loses_trials=True,
        ),
        Damage(
            "config.yaml, cut off",
            finished,
            [],
            lambda run, cache: cut(run / CONFIG),
            CONFIG,
            lambda run, original: restore(run, original, CONFIG),
        ),
    ]


def other_damages(bench: Bench, finished: Path) -> list[Damage]:
    """Return the damages to searches that were killed half-way."""
    early, early_said = bench.state("killed in supernet", PHASES["supernet"], "supernet_checkpoint.pt")
    late, late_said = bench.state("killed in candidates", r"^#5 screened")
    best = json.loads((finished / "report.json").read_text())["best"]["trial"]
    weights = f"full/trial_{best}.safetensors"

    def flip_best(run: Path, _cache: Path) -> None:
        flip(run / weights)
        shutil.rmtree(run / "best")  # so that the weights are needed

    return [
        Damage("journal, torn last line", late, late_said, lambda run, cache: append(run / "journal.log", b"\0\0{")),
        Damage(
            "features, flipped bytes",
            late,
            late_said,
            lambda run, cache: flip(largest(cache)),
            notice="rebuilding it",
        ),
        Damage("features, cut off", late, late_said, lambda run, cache: cut(largest(cache)), notice="rebuilding it"),
        Damage(
            "supernet checkpoint, flipped bytes",
            early,
            early_said,
            lambda run, cache: flip(run / "supernet_checkpoint.pt"),
            "supernet_checkpoint.pt",
            lambda run, original: (run / "supernet_checkpoint.pt").unlink(),
        ),
        Damage(
            "supernet checkpoint, cut off",
            early,
            early_said,
            lambda run, cache: cut(run / "supernet_checkpoint.pt"),
            "supernet_checkpoint.pt",
            lambda run, original: (run / "supernet_checkpoint.pt").unlink(),
        ),
        *(
            Damage(
                f"supernet, {name}",
                late,
                late_said,
                lambda run, cache, harm=harm: harm(run / "supernet.safetensors"),  # type: ignore[misc]
                "supernet.safetensors",
                lambda run, original: restore(run, original, "supernet.safetensors"),
            )
            for name, harm in (("flipped bytes", flip), ("cut off", cut))
        ),
        Damage(
            "weights of a finalist, flipped bytes",
            finished,
            [],
            flip_best,
            weights,
            lambda run, original: restore(run, original, weights),
        ),
        Damage("frozen weights, flipped bytes", late, late_said, lambda run, cache: flip(run / "image_encoder.pt")),
        Damage("results.csv, cut off", late, late_said, lambda run, cache: cut(run / "results.csv")),
        *(
            Damage(
                f"{name}, cut off",
                finished,
                [],
                lambda run, cache, name=name: cut(run / name),  # type: ignore[misc]
                name,
                lambda run, original, name=name: restore(run, original, name),  # type: ignore[misc]
            )
            for name in ("time.json", "report.json", "default.json")
        ),
    ]


def flip(path: Path) -> None:
    """Change some bytes in the middle of a file."""
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 8):
        content[place] ^= 0x15
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Keep the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def keep_whole_lines(path: Path, original: Path) -> None:
    """Keep the lines before the first that differs from the original."""
    pairs = zip(path.read_bytes().split(b"\n"), original.read_bytes().split(b"\n"), strict=False)
    kept = []
    for line, before in pairs:
        if line != before:
            break
        kept.append(line + b"\n")
    path.write_bytes(b"".join(kept))


def restore(run: Path, original: Path, name: str) -> None:
    shutil.copy(original / name, run / name)


def largest(cache: Path) -> Path:
    """Return the largest file of features."""
    return max(cache.rglob("*.npy"), key=lambda path: path.stat().st_size)


@contextmanager
def tmpfs(place: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a small disk until the block ends.

    Raises:
        subprocess.CalledProcessError: If mounting is not permitted.
    """
    place.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def resize(disk: Path, size_bytes: int) -> None:
    _mount("-o", f"remount,size={size_bytes}", str(disk))


def _mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise subprocess.CalledProcessError(127, "mount", stderr="no mount program is installed") from error


def _is_disk_error(errors: str, disk: Path) -> bool:
    is_reason = "No space left" in errors or "the disk is too full" in errors
    return errors.startswith("error: ") and is_reason and str(disk) in errors


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "(nothing)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--quick", action="store_true", help="2 kills and the quick damages: shows that the script works"
    )
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory).resolve(), options.seed, is_quick=options.quick)
        finished = bench.run_undisturbed(workers=0 if options.quick else 2)
        searches, kills = 0, 0
        wanted = 2 if options.quick else options.kills
        while kills < wanted:
            searches += 1
            most = min(wanted - kills, _KILLS_A_SEARCH)
            count = bench.run_killed(
                bench.work / f"killed {searches}", most, first_strokes if options.quick else bench.plan
            )
            kills += count
            print(f"killed {searches}: {count} kills, {kills} of {wanted}; {bench.findings.counts}", flush=True)
            if not count:
                raise SystemExit("no process could be killed")
        damages = quick_damages(finished)
        if not options.quick:
            damages += other_damages(bench, finished)
        for damage in damages:
            bench.run_damaged(damage, workers=0 if options.quick else 2, is_mended=not options.quick)
            print(f"damaged {damage.name}; {bench.findings.counts}", flush=True)
        disk: int | str = "not run: --quick"
        if not options.quick:
            try:
                disk = bench.fill_disk()
            except subprocess.CalledProcessError as error:
                disk = f"not run: {error.stderr.strip()}"
        left: int | str = _NOT_WAITED_FOR if options.quick else bench.count_left_processes()
    figures = {
        **bench.findings.counts,
        "kills": kills,
        "killed_drivers": sum(count for (victim, _), count in bench.kills.items() if victim == "driver"),
        "killed_workers": sum(count for (victim, _), count in bench.kills.items() if victim == "worker"),
        "whole_searches": searches,
        "sessions": len(bench.drivers),
        "damages": len(damages),
        "full_disks": disk,
        "slowest_worker_exit_seconds": round(bench.worker_exit_seconds, 2),
        "processes_left": left,
        "seconds": round(time.monotonic() - started),
    }
    print()
    rows = [(phase, *(str(bench.kills[victim, phase]) for victim in ("driver", "worker"))) for phase in _ORDER]
    print(text_table(("killed in", "driver", "worker"), rows))
    print()
    print(text_table(("figure", "value"), [(name, str(value)) for name, value in figures.items()]))
    problems = [*bench.findings.lost, *bench.findings.differing, *bench.findings.unclear]
    for problem in problems:
        print(problem)
    if options.json:
        by_phase = {phase: {victim: bench.kills[victim, phase] for victim in ("driver", "worker")} for phase in _ORDER}
        options.json.write_text(json.dumps({**figures, "kills_by_phase": by_phase, "problems": problems}, indent=1))
    return 1 if problems or left not in (0, _NOT_WAITED_FOR) else 0


def first_strokes(reached: str) -> list[Stroke]:
    """Return the kills of `--quick`: a worker and the driver, while candidates run."""
    del reached
    return [Stroke("worker", "candidates", 0.1), Stroke("driver", "candidates", 0.3)]


if __name__ == "__main__":
    sys.exit(main())
