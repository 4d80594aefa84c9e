"""A search that is killed again and again, runs out of disk and has its files damaged: what is lost, and what is said.

A small deterministic search runs undisturbed once, as a process of its own with Ray workers. Then the same search runs
while its driver or one of its workers is killed (`kill -9`) at random moments of every phase; it is resumed each time,
with another number of workers, and compared with the undisturbed one when it is finished. After that its disk fills up,
which takes the right to mount a small tmpfs, and its files are damaged one by one.

- lost_trials: the program had said that it was finished, and it is not in the study or was run once more.
- differing_trials: not what the undisturbed search found, exported models included.
- unclear_errors: a trace, an end without a reason, a reason that does not name the file, a hang, a search that the
  death of a worker has ended.

Run: python -m benchmarks.faults [--kills 100] [--seed 0] [--json FILE] [--quick]
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
_ALL_GONE_SECONDS = 120.0  # Ray's agents look for their node now and then
_NOT_WAITED_FOR = "not waited for: --quick"
_MODELS = ("best", "default")


@dataclass
class Findings:
    """What went wrong, in words."""

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
    """What a finished search has left.

    Args:
        trials: By stage and number, one line of the canonical export each.
        scores: By number and stage as the program says them, to three digits.
        models: Weights of the exported models.
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
    """A kill that is planned.

    Args:
        victim: `driver` or `worker`.
        phase: Not before it has begun.
        delay_share: When after that, as a share of how long the phase took in the undisturbed search.
    """

    victim: str
    phase: str
    delay_share: float


class Bench:
    """Runs searches on the little project and notes what goes wrong.

    Args:
        work: Folder for everything.
        seed: Decides the moments.
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
        """Start the search in a run directory, or go on with it."""
        what = (
            ("resume", run) if (run / CONFIG).exists() else ("search", self.source, "--deterministic", "--run-dir", run)
        )
        directory = self.work / "sessions" / str(len(self.drivers))
        common = ("--workers", str(workers), "--cache-dir", cache or self.cache)
        driver = RealDriver(*what, *common, directory=directory)
        self.drivers.append(driver)
        return driver

    def finish(self, driver: RealDriver, what: str) -> int | None:
        """Wait for a driver's own end; returns its exit status, None for a hang, which is noted."""
        try:
            status = driver.finish(_SESSION_SECONDS)
        except subprocess.TimeoutExpired:
            driver.end_everything()
            self.findings.unclear.append(f"{what}: hangs in {driver.phase}: {_last_line(driver.output)}")
            return None
        if "Traceback" in driver.errors:
            self.findings.unclear.append(f"{what}: a trace: {_last_line(driver.errors)}")
        return status

    def finish_well(self, driver: RealDriver, what: str) -> bool:
        """Wait for a driver to finish its search; whatever else it does is noted."""
        status = self.finish(driver, what)
        if status == 0 and not driver.errors:
            return True
        if status is not None:
            said = _last_line(driver.errors)
            self.findings.unclear.append(f"{what}: status {status} in place of a finished search: {said}")
        return False

    def finish_refused(self, driver: RealDriver, what: str, named: str) -> None:
        """Wait for a driver to refuse to go on, by one error that names something; whatever else it does is noted."""
        status = self.finish(driver, what)
        is_clear = driver.errors.startswith("error: ") and named in driver.errors
        if status is not None and (status != 2 or not is_clear):
            said = _last_line(driver.errors) or _last_line(driver.output)
            self.findings.unclear.append(f"{what}: status {status} in place of an error that names {named}: {said}")

    def compare(self, run: Path, what: str, said: list[tuple[str, str, str]]) -> None:
        """Note what differs from the undisturbed search, and what a driver had said and is not so.

        Args:
            run: Of a finished search.
            what: Names it.
            said: What all its drivers have said: number, stage and score.
        """
        ending, reference = Ending.of(run), self.reference
        for key in ending.trials.keys() | reference.trials.keys():
            if ending.trials.get(key) != reference.trials.get(key):
                found, expected = ending.trials.get(key, "nothing"), reference.trials.get(key, "nothing")
                self.findings.differing.append(f"{what}: {key[0]} {key[1]}: {found} in place of {expected}")
        for role in _MODELS:
            if ending.models[role] != reference.models[role]:
                self.findings.differing.append(f"{what}: the exported model {role}")
        for (trial, stage), count in Counter((trial, stage) for trial, stage, _ in said).items():
            if count > 1:
                self.findings.lost.append(f"{what}: trial {trial} {stage} was finished {count} times")
        for trial, stage, score in said:
            if ending.scores.get((trial, stage)) != score:
                self.findings.lost.append(f"{what}: trial {trial} {stage} {score} is not in the study")

    def run_undisturbed(self, workers: int) -> Path:
        """The search that all others are compared with."""
        run = self.work / "undisturbed"
        started = time.monotonic()
        driver = self.drive(run, workers)
        marks = {}
        for phase in _ORDER:
            if driver.wait_for(PHASES[phase], _SESSION_SECONDS):
                marks[phase] = time.monotonic() - started
        if not self.finish_well(driver, "undisturbed") or len(marks) < len(_ORDER):
            raise SystemExit(f"the undisturbed search has failed:\n{driver.output}\n{driver.errors}")
        ends = [*list(marks.values())[1:], time.monotonic() - started]
        self.phase_seconds = {phase: end - marks[phase] for phase, end in zip(_ORDER, ends, strict=True)}
        self.reference = Ending.of(run)
        scores = [entry["score"] for entry in map(json.loads, self.reference.trials.values())]
        if len(set(scores)) < 3:
            raise SystemExit(f"scores that are all alike show no difference: {scores}")
        return run

    # Kills

    def run_killed(self, run: Path, kills: int, strokes: Callable[[str], list[Stroke]]) -> int:
        """A whole search with so many kills at most; returns how many there were.

        Args:
            run: Its directory.
            kills: At most.
            strokes: What is planned for a session, by the phase that the search has reached; the driver's kill last.
        """
        said: list[tuple[str, str, str]] = []
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
                    self.findings.unclear.append(f"{what}: a trace: {_last_line(driver.errors)}")
            elif not self.finish_well(driver, what):
                return count
            said += finished_models(driver.output)
            reached = max(reached, driver.phase, key=_ORDER.index)
        self.compare(run, run.name, said)
        return count

    def workers(self, planned: list[Stroke]) -> int:
        """How many a session has; none at all is the quickest way to finish."""
        if self.is_quick:
            return 2 if planned else 0
        return self.rng.choice(_WORKERS)

    def strike(self, driver: RealDriver, stroke: Stroke) -> str | None:
        """Wait for the moment and kill; returns the phase in which that was, None if nobody was there to be killed."""
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
        """Kills of one session: of workers, then of the driver, in the phases that had the fewest so far."""
        first = _ORDER.index(reached)
        # Not far ahead, or no search would be killed early and often.
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
        """Note workers that go on without their driver: they would write into a run that another one goes on with."""
        seconds = driver.seconds_until_workers_end()
        if seconds is None:
            self.findings.unclear.append(f"{what}: workers outlive their driver")
            driver.end_everything()
        else:
            self.worker_exit_seconds = max(self.worker_exit_seconds, seconds)

    def count_left_processes(self) -> int:
        """Processes of any driver that are still there; waits for them to end."""
        deadline = time.monotonic() + _ALL_GONE_SECONDS
        while True:
            left = sum(len(driver.processes()) for driver in self.drivers)
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(1.0)

    # Damage

    def state(self, name: str, pattern: str, file: str | None = None) -> tuple[Path, list[tuple[str, str, str]]]:
        """A run directory whose driver was killed at a line of its output, and what that one had said.

        Args:
            name: For people, and of the directory.
            pattern: The line.
            file: Waited for behind the line, and there when the driver is dead.
        """
        run = self.work / name
        driver = self.drive(run, 2)
        is_there = driver.wait_for(pattern, _SESSION_SECONDS)
        while is_there and file is not None and driver.is_running and not (run / file).exists():
            time.sleep(0.005)
        driver.kill()
        if not is_there or (file is not None and not (run / file).exists()):
            raise SystemExit(f"the search for {name} has failed:\n{driver.output}\n{driver.errors}")
        self.check_workers_go(driver, name)
        return run, finished_models(driver.output)

    def run_damaged(self, damage: "Damage", workers: int, *, is_mended: bool) -> None:
        """Damage a copy of a run and go on with it."""
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
            if damage.says not in driver.output:
                self.findings.unclear.append(f"{what}: nothing was said of it")
            said = [*damage.said, *finished_models(driver.output)]
            self.compare(run, what, [] if damage.loses_trials else said)

    # Disk

    def fill_disk(self) -> int:
        """Run a search whose disk is too small again and again, with more of it each time; returns how often it was.

        Raises:
            subprocess.CalledProcessError: If nothing may be mounted here.
        """
        total = sum(path.stat().st_size for path in (self.work / "undisturbed").rglob("*"))
        with tmpfs(self.work / "disk", total // 10) as disk:
            run, said, refusals = disk / "run", [], 0
            cache = disk / "cache"
            # Room for: no features; no frozen weights; no supernet; no exported model; everything.
            for share in (0.2, 0.75, 0.95, 1.2, 20.0):
                resize(disk, int(total * share))
                driver = self.drive(run, 2, cache)
                what = f"disk of {int(total * share) // 1024} KiB"
                status = self.finish(driver, what)
                said += finished_models(driver.output)
                if status == 0:
                    self.compare(run, what, said)
                    break
                refusals += 1
                if status is not None and (status != 2 or not _is_disk_error(driver.errors, disk)):
                    reason = _last_line(driver.errors)
                    self.findings.unclear.append(f"{what}: status {status}, not an error about the disk: {reason}")
            else:
                self.findings.unclear.append("disk: the search does not end when there is room again")
        return refusals


@dataclass(frozen=True)
class Damage:
    """What is done to the files of a run, and what is to follow.

    Args:
        name: For people.
        state: The run directory that is copied.
        said: What its driver had said to be finished.
        harm: Damages the copy, or its cache.
        refused_by: Part of the error that is to follow; None if the search is to go on.
        mend: Does to the copy what the error says, or puts the file back from the original.
        says: What a search that goes on is to say of it.
        loses_trials: Whether mending means to run some again.
    """

    name: str
    state: Path
    said: list[tuple[str, str, str]]
    harm: Callable[[Path, Path], None]
    refused_by: str | None = None
    mend: Callable[[Path, Path], None] = lambda run, original: None
    says: str = ""
    loses_trials: bool = False


def quick_damages(finished: Path) -> list[Damage]:
    """Those that are told within seconds."""
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
            lambda run, original: put_back(run, original, CONFIG),
        ),
    ]


def other_damages(bench: Bench, finished: Path) -> list[Damage]:
    """Those that take searches in the middle of something."""
    early, early_said = bench.state("killed in supernet", PHASES["supernet"], "supernet_checkpoint.pt")
    late, late_said = bench.state("killed in candidates", r"^#5 screened")
    best = json.loads((finished / "report.json").read_text())["best"]["trial"]
    weights = f"full/trial_{best}.safetensors"

    def flip_best(run: Path, _cache: Path) -> None:
        flip(run / weights)
        shutil.rmtree(run / "best")  # so that they are needed

    return [
        Damage("journal, torn last line", late, late_said, lambda run, cache: append(run / "journal.log", b"\0\0{")),
        Damage(
            "features, flipped bytes",
            late,
            late_said,
            lambda run, cache: flip(largest(cache)),
            says="rebuilding it",
        ),
        Damage("features, cut off", late, late_said, lambda run, cache: cut(largest(cache)), says="rebuilding it"),
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
                lambda run, original: put_back(run, original, "supernet.safetensors"),
            )
            for name, harm in (("flipped bytes", flip), ("cut off", cut))
        ),
        Damage(
            "weights of a finalist, flipped bytes",
            finished,
            [],
            flip_best,
            weights,
            lambda run, original: put_back(run, original, weights),
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
                lambda run, original, name=name: put_back(run, original, name),  # type: ignore[misc]
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
    """Keep the lines before the first that is not as it was."""
    pairs = zip(path.read_bytes().split(b"\n"), original.read_bytes().split(b"\n"), strict=False)
    kept = []
    for line, before in pairs:
        if line != before:
            break
        kept.append(line + b"\n")
    path.write_bytes(b"".join(kept))


def put_back(run: Path, original: Path, name: str) -> None:
    shutil.copy(original / name, run / name)


def largest(cache: Path) -> Path:
    """The largest file of features."""
    return max(cache.rglob("*.npy"), key=lambda path: path.stat().st_size)


@contextmanager
def tmpfs(place: Path, size_bytes: int) -> Iterator[Path]:
    """A small disk, for a while.

    Raises:
        subprocess.CalledProcessError: If it may not be mounted.
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
        raise subprocess.CalledProcessError(127, "mount", stderr="there is no mount program") from error


def _is_disk_error(errors: str, disk: Path) -> bool:
    is_reason = "No space left" in errors or "the disk is too full" in errors
    return errors.startswith("error: ") and is_reason and str(disk) in errors


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "(nothing)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
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
                raise SystemExit("nothing could be killed")
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
    """For `--quick`: a worker and the driver, in the middle of the candidates."""
    del reached
    return [Stroke("worker", "candidates", 0.1), Stroke("driver", "candidates", 0.3)]


if __name__ == "__main__":
    sys.exit(main())
