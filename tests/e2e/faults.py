"""Kill a search repeatedly, fill its disk and damage its files; count lost trials, other results and unclear errors.

A small deterministic search runs undisturbed once, in its own process with Ray workers. The same search is then run
while its driver, one of its workers or a process of Ray itself is killed (`kill -9`) at random moments of every phase.
It is resumed after each kill of the driver, with another number of workers, and compared with the undisturbed search
when it has finished. Then its disk fills up, which requires the right to mount a small tmpfs, and its files are damaged
one by one.

- lost_trials: trials that the program reported as finished and that are not in the study, or were run again.
- differing_trials: results and exported models that differ from those of the undisturbed search.
- unclear_errors: tracebacks, exits without a reason, reasons that do not name the file, hangs, and searches that the
  death of a worker has ended.

Run: python -m tests.e2e.faults [--kills 100] [--seed 0] [--json FILE] [--quick]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nas.run.tables import text_table
from tests.support.fault_bench import PHASE_ORDER, RAY_PROCESSES, Bench
from tests.support.fault_damages import other_damages, quick_damages
from tests.support.fault_records import Stroke

_KILLS_A_SEARCH = 10
_NOT_WAITED_FOR = "not counted: --quick"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="number of kills (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="2 kills and the quick damages, to try the script")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory).resolve(), options.seed, is_quick=options.quick)
        finished = bench.run_undisturbed(workers=0 if options.quick else 2)
        searches, kills = run_kills(bench, 2 if options.quick else options.kills)
        damages = run_damages(bench, finished)
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
        "killed_rays": sum(count for (victim, _), count in bench.kills.items() if victim in RAY_PROCESSES),
        "whole_searches": searches,
        "sessions": len(bench.drivers),
        "damages": damages,
        "full_disks": disk,
        "slowest_worker_exit_seconds": round(bench.worker_exit_seconds, 2),
        "processes_left": left,
        "seconds": round(time.monotonic() - started),
    }
    problems = show(bench, figures, options.json)
    return 1 if problems or left not in (0, _NOT_WAITED_FOR) else 0


def run_kills(bench: Bench, wanted: int) -> tuple[int, int]:
    """Run searches until that many kills have happened; return the numbers of searches and kills."""
    searches, kills = 0, 0
    while kills < wanted:
        searches += 1
        most = min(wanted - kills, _KILLS_A_SEARCH)
        plan = first_strokes if bench.is_quick else bench.plan
        count = bench.run_killed(bench.work / f"killed {searches}", most, plan)
        kills += count
        print(f"killed {searches}: {count} kills, {kills} of {wanted}; {bench.findings.counts}", flush=True)
        if not count:
            raise SystemExit("no process could be killed")
    return searches, kills


def run_damages(bench: Bench, finished: Path) -> int:
    """Damage copies of run directories and resume them; return the number of damages."""
    damages = quick_damages(finished)
    if not bench.is_quick:
        damages += other_damages(bench, finished)
    for damage in damages:
        bench.run_damaged(damage, workers=0 if bench.is_quick else 2, is_mended=not bench.is_quick)
        print(f"damaged {damage.name}; {bench.findings.counts}", flush=True)
    return len(damages)


def show(bench: Bench, figures: dict[str, Any], path: Path | None) -> list[str]:
    """Print the figures and problems, write them as JSON on request, and return the problems."""
    victims = ("driver", "worker", *RAY_PROCESSES)
    print()
    rows = [(phase, *(str(bench.kills[victim, phase]) for victim in victims)) for phase in PHASE_ORDER]
    print(text_table(("killed in", *victims), rows))
    print()
    print(text_table(("figure", "value"), [(name, str(value)) for name, value in figures.items()]))
    problems = [*bench.findings.lost, *bench.findings.differing, *bench.findings.unclear]
    for problem in problems:
        print(problem)
    if path:
        by_phase = {phase: {victim: bench.kills[victim, phase] for victim in victims} for phase in PHASE_ORDER}
        path.write_text(json.dumps({**figures, "kills_by_phase": by_phase, "problems": problems}, indent=1))
    return problems


def first_strokes(reached: str) -> list[Stroke]:
    """Return the kills of `--quick`: a worker and the driver, while candidates run."""
    del reached
    return [Stroke("worker", "candidates", 0.1), Stroke("driver", "candidates", 0.3)]


if __name__ == "__main__":
    sys.exit(main())
