"""What the driver of a search takes for one trial, and whether that grows with their number.

A whole search (`nas.run.search_loop.Search`) of the demo with its own encoders, features, memory budget and
predictions, a
journal on disk and two Ray workers; only what a worker does is left out: it answers every job at once, with a score by
a formula. The space is finer than the demo's, so that there are 31,104 architectures.

A trial is one architecture that is scored with one_shot weights: it is proposed, looked up, its peak predicted,
appended to the journal, admitted, sent to a worker, its result appended to the journal and told; with its share of what
comes along: a promotion for every fourth (a job and an append more), the lines of the log, and `results.csv`, which is
written anew every few seconds. `milliseconds_per_trial_at_N` is the mean over the trials from N / 2 to N for a tenth of
the trials, and over as many at the end; `processor_milliseconds` is what of it the driver computes, where other load on
the machine counts less. Predictions of memory need rehearsals once for every L_f and M_qp, with and without FCP, which
a search makes among its first trials; here before the first, so that no early trial is dearer: `warm_up_seconds`.

`resume_seconds` is measured in a fresh process, after its imports and after encoders and features are loaded, which
take the same time however many trials there are: from opening the study until the first new proposal would start, with
no prediction warm. `resident_bytes` is the driver's whole resident memory (torch, encoders and Ray among it) when its
search has ended, and `resident_growth_bytes` what it grew by from a tenth of the trials on. Every search has a driver
of its own.

Run: python -m benchmarks.driver [--trials 10000] [--strategy evolution random tpe] [--json FILE] [--quick]
"""

import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.instant_search import WORKERS, configuration, resume_seconds, search
from benchmarks.models import DEMO
from nas.common.units import format_bytes
from nas.config.load import load_config
from nas.run.tables import text_table
from nas.search.strategies.registry import STRATEGIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--strategy", choices=STRATEGIES, nargs="+", default=["evolution", "random", "tpe"])
    parser.add_argument("--directory", type=Path, help="for the journals, on the disk that is meant (default: TMPDIR)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="200 trials of the first strategy: shows that it works")
    options = parser.parse_args()
    trials = 200 if options.quick else options.trials
    runs = [(strategy, 1) for strategy in options.strategy]
    if options.quick:
        runs = runs[:1]
    elif "evolution" in options.strategy:
        runs.insert(1, ("evolution", load_config(DEMO).search.eval_batch))

    found = [measured(strategy, together, trials, options.directory) for strategy, together in runs]
    figures: dict[str, Any] = {
        "trials": trials,
        "workers": WORKERS,
        "searches": [
            {"strategy": strategy, "eval_batch": together, **values}
            for (strategy, together), values in zip(runs, found, strict=True)
        ],
    }
    early = trials // 10
    header = (
        "strategy",
        "scored together",
        f"ms a trial at {early:,}",
        f"at {trials:,}",
        "ratio",
        f"processor ms at {early:,}",
        f"at {trials:,}",
        "warm-up s",
        "resume s",
        "driver's memory",
        f"grown since {early:,}",
    )
    rows = [
        (
            strategy,
            str(together),
            f"{values[f'milliseconds_per_trial_at_{early}']:.2f}",
            f"{values[f'milliseconds_per_trial_at_{trials}']:.2f}",
            f"{values['ratio']:.2f}",
            f"{values[f'processor_milliseconds_per_trial_at_{early}']:.2f}",
            f"{values[f'processor_milliseconds_per_trial_at_{trials}']:.2f}",
            f"{values['warm_up_seconds']:.1f}",
            f"{values['resume_seconds']:.2f}",
            format_bytes(int(values["resident_bytes"])),
            format_bytes(int(values["resident_growth_bytes"])),
        )
        for (strategy, together), values in zip(runs, found, strict=True)
    ]
    print(text_table(header, rows))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def measured(strategy: str, together: int, trials: int, parent: Path | None) -> dict[str, float]:
    """Figures of one search, and of its continuation; each in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.instant_search"])  # imported once for all, and nothing else done
    with (
        tempfile.TemporaryDirectory(dir=parent) as name,
        ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes,
    ):
        directory = Path(name)
        found = processes.submit(search, configuration(strategy, together, trials), directory).result()
        # One trial more, so that there is something to propose.
        later = configuration(strategy, together, trials + 1)
        return found | {"resume_seconds": processes.submit(resume_seconds, later, directory).result()}


if __name__ == "__main__":
    main()
