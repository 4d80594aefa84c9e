"""Give mutated input of every kind to the program, and count what a user should never meet.

The input is a small valid project: search file, data set, two encoders, a finished run and an exported model. Each case
is a copy of it in which one thing is changed at random, and a command that reads it: in process, from the arguments
through loading, checking and planning to what is printed, and for some cases as a real process. Counted are

- tracebacks: exceptions that reach the user, exit statuses other than 0 and 2, and processes that die.
- hangs: more than 10 s (60 s for a command that trains), or more than 1 GiB above what the valid project takes.
- unclear: errors without file, key or row, with a value that is not shortened, or without what is allowed.
- silent: changes of known effect (a label, a pixel, a row, a weight, a score, or the same data stated differently) that
  end with exit status 0, another result and no message.

Afterwards one fault of each kind is planted in the program; each has to be found.

Run: python -m benchmarks.fuzz [--seed N] [--quick] [--json FILE] [--kind KIND] [--case KIND NUMBER] [--patience N]
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.fuzzing.cases import command_name
from benchmarks.fuzzing.engine import SEARCH_FILE, CaseSource, outcomes, valid_outcomes
from benchmarks.fuzzing.outcomes import FAULTS, Expectation, Outcome, fault_of
from benchmarks.fuzzing.planted import PLANTED
from benchmarks.fuzzing.prepare import prepare_base
from benchmarks.fuzzing.real import real_outcomes, real_valid_outcomes

_COUNTS = {"search file": 10_000, "data set": 700, "checkpoint": 400, "model folder": 450, "run directory": 450}
_QUICK_COUNTS = {"search file": 150, "data set": 9, "checkpoint": 7, "model folder": 7, "run directory": 7}
_REAL, _QUICK_REAL = 300, 2
_SHOWN = 25


def main() -> int:
    """Print every fault found, and the number of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="seed of all mutations (default: a new one, which is printed)")
    parser.add_argument("--quick", action="store_true", help="some 180 cases, 2 of them as real processes")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="number of cases at a time")
    parser.add_argument(
        "--patience",
        type=float,
        default=1,
        metavar="N",
        help="allow N times the time, where other programs run as well",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file to write the figures to")
    parser.add_argument("--case", nargs=2, action="append", metavar=("KIND", "NUMBER"), help="run this case only")
    parser.add_argument("--kind", action="append", choices=_COUNTS, help="run the cases of this kind only")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        figures = run(options, seed, Path(directory))
    figures["seconds"] = round(time.monotonic() - started)
    print(json.dumps(figures))
    if options.json:
        options.json.write_text(json.dumps({"seed": seed, **figures}, indent=1))
    return int(any(figures[fault] for fault in FAULTS) or figures["planted_found"] != figures["planted"])


def run(options: argparse.Namespace, seed: int, work: Path) -> dict[str, int]:
    """Run all cases; return the figures."""
    source = CaseSource(seed, prepare_base(work), work, patience=options.patience)
    found: Counter[str] = Counter()

    def judge(results: Iterable[Outcome], valid: Mapping[str, Expectation], *, shows: bool = True) -> Counter[str]:
        faults: Counter[str] = Counter()
        for outcome in results:
            fault = fault_of(outcome, valid[command_name(outcome.command)])
            statuses[(outcome.case[0], outcome.status)] += 1
            if fault is not None:
                faults[fault[0]] += 1
                if shows and faults[fault[0]] <= _SHOWN:
                    case = f"{outcome.case} {outcome.command[0]}: {outcome.description}"
                    print(f"{fault[0]}: {case}\n    {fault[1]}", flush=True)
        return faults

    statuses: Counter[tuple[str, int | None]] = Counter()
    valid = valid_outcomes(source)
    counts = _QUICK_COUNTS if options.quick else _COUNTS
    cases = [(kind, number) for kind, count in counts.items() for number in range(count)]
    if options.kind:
        cases = [case for case in cases if case[0] in options.kind]
    if options.case:
        cases = [(kind, int(number)) for kind, number in options.case]
    for kind in dict.fromkeys(kind for kind, _ in cases):
        chosen = [case for case in cases if case[0] == kind]
        begun = time.monotonic()
        found += judge(outcomes(chosen, source, processes=options.processes), valid)
        ends = {status: count for (name, status), count in statuses.items() if name == kind}
        print(f"{kind}: {len(chosen)} cases in {time.monotonic() - begun:.0f} s, exit statuses {ends}", flush=True)
    real: list[tuple[str, int]] = []
    if not (options.case or options.kind):
        # Quickly: search files only, so that one command has to be measured for the valid project.
        drawn = [case for case in cases if case[0] == SEARCH_FILE] if options.quick else cases
        real = random.Random(seed).sample(drawn, _QUICK_REAL if options.quick else _REAL)
        commands = ["space"] if options.quick else sorted(valid)
        found += judge(
            real_outcomes(real, source, processes=options.processes),
            real_valid_outcomes(source, commands),
        )
        print(f"real processes: {len(real)}", flush=True)
    planted = [fault for fault in PLANTED if fault.is_quick or not options.quick]
    planted_found = 0
    for planted_fault in planted:
        results = outcomes([planted_fault.case], replace(source, plant=planted_fault.plant), processes=1)
        is_found = judge(results, valid, shows=False)[planted_fault.kind] == 1
        planted_found += is_found
        print(f"planted fault ({planted_fault.kind}): {'found' if is_found else 'NOT FOUND'}", flush=True)
    return {
        **{fault: found[fault] for fault in FAULTS},
        "cases": len(cases),
        "processes": len(real),
        "planted": len(planted),
        "planted_found": planted_found,
    }


if __name__ == "__main__":
    sys.exit(main())
