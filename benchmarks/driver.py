"""The driver's cost of one trial, and whether it grows with the number of trials.

A whole search (`nas.run.phases.loop.Search`) of the demo with its own encoders, features, memory budget and memory
predictions, a journal on disk and two Ray workers; only the work of the workers is omitted: they return every job at
once, with a score by a formula. The space is finer than the demo's and holds 31,104 architectures.

A trial is one architecture that is scored with the supernet's weights: it is proposed, looked up, its peak is
predicted, it is appended to the journal, admitted and sent to a worker, its result is appended to the journal and
reported to the strategy. The cost includes its part of everything else: a promotion for every fourth trial (one more
job and append), the lines of the log, and `results.csv`, which is rewritten every few seconds.
`milliseconds_per_trial_at_N` is the mean over the trials from N / 2 to N for a tenth of the trials, and over as many
at the end; `processor_milliseconds` is the driver's own computation, which depends less on other load of the machine.
Memory predictions need one tracing for every L_f and M_qp, with and without FCP; a search traces during its first
trials, this benchmark before the first one, so that no early trial is more expensive: `warm_up_seconds`.

`resume_seconds` is measured in a fresh process, after its imports and after encoders and features are loaded, which
take the same time for any number of trials: from opening the study until the first new candidate would start, with no
prediction warm. `resident_bytes` is the whole resident memory of the driver (torch, encoders and Ray included) at the
end of its search, and `resident_growth_bytes` its growth from a tenth of the trials on. Every search has its own
driver.

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
    parser.add_argument("--directory", type=Path, help="folder of the journals (default: TMPDIR)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="200 trials of the first strategy, as a test")
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
    """Return the figures of one search and of its resumption, each in its own process.

    Args:
        strategy: The name of the search strategy.
        together: The number of candidates that are scored together.
        trials: The number of trials.
        parent: The folder for the journal; None for a temporary folder.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.instant_search"])  # imported once for all processes
    with (
        tempfile.TemporaryDirectory(dir=parent) as name,
        ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes,
    ):
        directory = Path(name)
        found = processes.submit(search, configuration(strategy, together, trials), directory).result()
        # One trial more, so that the resumed search proposes one.
        later = configuration(strategy, together, trials + 1)
        return found | {"resume_seconds": processes.submit(resume_seconds, later, directory).result()}


if __name__ == "__main__":
    main()
