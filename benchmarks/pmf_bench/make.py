"""Build the table: train architectures of the demo's space completely, from fresh weights, in the project's workers.

160 architectures: the 32 corners of the space, PMF's default, and further ones that fill up one third for each L_f,
drawn from equal parts of their order by trainable parameters. All are trained with seeds 0 and 1, and 40 of them,
spread in the same way, also with seeds 2 and 3: these show how well two seeds rank (`kendall_tau_ceiling`).

With `--recipe auto`, another table is built: 100 architectures, all with four seeds, trained with the recipe with which
a search without one starts. It also stores which predictions are right, for `benchmarks.selection_coverage`.

Every training is written to the table before the next one starts, so the program can be stopped and started again at
any time. Peaks are measured at the end, in a few steps of each architecture. The table records everything that its
numbers depend on (recipe, data, encoders); a table with other settings is rejected.

Run: python -m benchmarks.pmf_bench.make [--recipe demo|auto] [--table FILE] [--workers 2] [--until MINUTES] [--quick]
"""

import argparse
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.models import DEMO, decisive_recipe, few_samples, papers_space, plain_space
from benchmarks.pmf_bench.selection import Training, all_seeds, trainings
from benchmarks.pmf_bench.table import AUTO_TABLE, TABLE, Row, Table, pack, read_table
from benchmarks.pmf_bench.worker import PEAK_STEPS, TEST, TableWorker, predictions_path
from benchmarks.workers import build_scheduler
from nas.common.files import default_cache_directory
from nas.common.progress import Reporter, build_reporter
from nas.common.units import format_seconds
from nas.config.load import load_config, parse_config
from nas.config.schema import Config
from nas.data.contents import describe_contents
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.digests import image_digests
from nas.data.features.cache import open_or_build
from nas.data.features.inputs import FeatureSources
from nas.data.features.store import FeatureStore
from nas.data.samples import Dataset
from nas.execution.placement import Placement
from nas.execution.plan import Plan
from nas.execution.ray.executor import RayExecutor
from nas.models.fusion.base import sizes_of
from nas.run.defaults import complete
from nas.run.executors import write_worker_setup
from nas.run.prepare import SearchContext, prepare
from nas.run.sources import needed_entry_layers
from nas.search.keys import CandidateKey
from nas.search.space import Architecture
from nas.search.trial import Failure, Job, Result, architecture_seed
from nas.training.trainer import full_step_count

DEMO_RECIPE, AUTO = "demo", "auto"

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "cross_entropy")
"""The metrics stored for each training."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=(DEMO_RECIPE, AUTO), default=DEMO_RECIPE, help="default: the demo's")
    parser.add_argument("--table", type=Path, help="file of the table (default: the committed one of the recipe)")
    parser.add_argument("--workers", type=int, default=2, help="number of workers (default: 2)")
    parser.add_argument("--until", type=float, metavar="MINUTES", help="start no training later than this")
    parser.add_argument("--quick", action="store_true", help="trial run: two trainings of two steps, not stored")
    options = parser.parse_args()
    is_auto = options.recipe == AUTO
    started = time.monotonic()

    def is_over() -> bool:
        return options.until is not None and time.monotonic() - started > 60 * options.until

    with build_reporter() as reporter, tempfile.TemporaryDirectory() as name:
        config = few_samples(Path(name)) if options.quick else load_config(DEMO)
        config = config.replace(space=papers_space(config.space))
        if is_auto:
            config = with_automatic_recipe(config)
        path = Path(name) / "table.json" if options.quick else options.table or (AUTO_TABLE if is_auto else TABLE)
        prepared = prepare(config, source=str(DEMO), cache_directory=default_cache_directory(), reporter=reporter)
        made_with = facts(config, prepared)
        table = read_table(path) if path.exists() else Table(made_with, [])
        if table.made_with != made_with:
            raise SystemExit(
                f"{path}: has other settings; expected {made_with}, got {table.made_with}; give another file as --table"
            )
        wanted = (all_seeds if is_auto else trainings)(config.space, prepared)
        steps = full_step_count(config.recipe, len(prepared.store.splits["train"]))
        if options.quick:
            wanted, steps = wanted[:2], 2
        predictions = Path(name) / "predictions"
        predictions.mkdir()
        plan = TablePlan(wanted, table, path, prepared, steps, reporter, predictions if is_auto else None)
        setup = write_worker_setup(config, prepared, Path(name), thread_count=1)
        executor = RayExecutor(
            setup,
            placement=Placement(worker_count=options.workers, most_by_memory=options.workers, threads=1),
            factory=partial(
                TableWorker,
                test_features=test_features(config, prepared, reporter).directory,
                predictions=predictions if is_auto else None,
            ),
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            build_scheduler(config, prepared, executor).run(plan, is_over=is_over)
            build_scheduler(config, prepared, executor).run(PeakPlan(plan), is_over=is_over)
        except KeyboardInterrupt:
            reporter.note("interrupted: every finished training is in the table")
        finally:
            executor.close()
        reporter.note(f"{path}: {len(plan.rows)} of {len(wanted)} trainings")


def with_automatic_recipe(config: Config) -> Config:
    """Return a configuration with the data, encoders, features and space of another, and the automatic recipe."""
    values = config.as_dict()
    kept = {key: values[key] for key in ("name", "data", "encoders", "features", "space")}
    source = f"{config.name}, automatic recipe"
    return complete(parse_config(kept, source=source, base_directory=Path.cwd()), source=source)


def facts(config: Config, prepared: SearchContext) -> dict[str, Any]:
    """Return everything that the numbers of a table depend on."""
    return {
        "space": plain_space(config.space),
        "recipe": decisive_recipe(config),
        "features": prepared.store.directory.name,
        "torch": torch.__version__.split("+")[0],
        "threads": 1,
    }


def test_features(config: Config, prepared: SearchContext, reporter: Reporter) -> FeatureStore:
    """Open or build a separate feature store of the test split; the store of a search has train and validation only."""
    dataset = read_dataset(config.data, ["test"], prepared.store.class_names)
    images = open_dataset_images(config.data)
    digests = image_digests(images, dataset.splits["test"].images, default_cache_directory())
    sources = FeatureSources(
        dataset=Dataset(dataset.class_names, {"test": dataset.splits["test"]}),
        images=images,
        preprocessor=prepared.preprocessor,
        image_encoder=prepared.image_encoder,
        text_encoder=prepared.text_encoder,
        entry_layers=frozenset(
            needed_entry_layers(config.space, sizes_of(prepared.image_encoder, prepared.text_encoder))
        ),
        uses_attention=config.space.architecture_class.reads_attention,
        contents=describe_contents(dataset, digests, prepared.contents.parts),
    )
    return open_or_build(
        sources,
        config.features,
        default_cache_directory(),
        on_progress=lambda done, total: reporter.progress("features of test", done, total),
        on_note=reporter.note,
    )


class TablePlan(Plan):
    """Runs the trainings that are missing in the table; each is written as soon as it has finished.

    Args:
        wanted: All trainings of the table, in their order.
        table: The trainings so far.
        path: The file of the table.
        prepared: The encoders, features and memory predictions of the search.
        step_count: The number of steps of a training.
        reporter: Receives a note for each finished training.
        predictions: The folder in which workers write which predictions are right; None if they do not.
    """

    def __init__(
        self,
        wanted: Sequence[Training],
        table: Table,
        path: Path,
        prepared: SearchContext,
        step_count: int,
        reporter: Reporter,
        predictions: Path | None,
    ) -> None:
        self._predictions = predictions
        self.rows = list(table.rows)
        there = {(row.architecture, row.seed) for row in self.rows}
        self._table, self._path, self._prepared = table, path, prepared
        self._step_count = step_count
        self._reporter = reporter
        self._total = len(wanted)
        self._waiting = {trial: pair for trial, pair in enumerate(wanted) if pair not in there}
        self._out: dict[int, int] = {}

    def next_jobs(self) -> list[Job]:
        if not self._waiting:
            return []
        trial = min(self._waiting)
        architecture, seed = self._waiting.pop(trial)
        self._out[trial] = seed
        return [self.job(trial, architecture, self._step_count, seed)]

    def finished(self, result: Result) -> None:
        self.rows.append(
            Row(
                architecture=result.architecture,
                seed=self._out.pop(result.trial),
                validation={name: result.metrics[name] for name in METRICS},
                test={name: result.metrics[TEST + name] for name in METRICS},
                trainable_parameters=self._prepared.memory.parameter_count(result.architecture),
                predicted_peak_bytes=result.predicted_peak_bytes,
                measured_peak_bytes=None,
                seconds=round(result.seconds, 2),
                right=self._right(result.trial),
            )
        )
        self.write()
        row = self.rows[-1]
        self._reporter.note(
            f"{len(self.rows)} of {self._total}: {row.architecture} seed {row.seed}: validation accuracy "
            f"{row.validation['accuracy']:.4f}, {format_seconds(row.seconds)}"
        )

    def _right(self, trial: int) -> dict[str, str] | None:
        if self._predictions is None:
            return None
        with np.load(predictions_path(self._predictions, trial)) as arrays:
            return {split: pack(arrays[split]) for split in arrays.files}

    def write(self) -> None:
        """Write all rows to the file."""
        Table(self._table.made_with, self.rows).write(self._path)

    def job(self, trial: int, architecture: Architecture, step_count: int, seed: int) -> Job:
        """Return the job of one training."""
        return Job(
            key=CandidateKey(trial),
            architecture=architecture,
            stage="full",
            step_count=step_count,
            seed=architecture_seed(seed, "table", architecture),  # differs from the seeds of a search's finalists
            predicted_peak_bytes=self._prepared.memory.predict(architecture).peak_bytes,
        )

    def rejected(self, failure: Failure) -> None:
        raise SystemExit(f"{failure.job.architecture}: {failure.reason}")

    def requeue(self, job: Job) -> None:
        self._waiting[job.trial] = (job.architecture, self._out.pop(job.trial))


class PeakPlan(Plan):
    """Measures the missing peaks of the architectures in a table.

    Args:
        plan: The plan that holds the rows of the table.
    """

    def __init__(self, plan: TablePlan) -> None:
        self._plan = plan
        missing = dict.fromkeys(row.architecture for row in plan.rows if row.measured_peak_bytes is None)
        self._waiting = dict(enumerate(missing))

    def next_jobs(self) -> list[Job]:
        if not self._waiting:
            return []
        trial = min(self._waiting)
        return [self._plan.job(trial, self._waiting.pop(trial), PEAK_STEPS, seed=0)]

    def finished(self, result: Result) -> None:
        self._plan.rows = [
            replace(row, measured_peak_bytes=result.measured_peak_bytes)
            if row.architecture == result.architecture
            else row
            for row in self._plan.rows
        ]
        self._plan.write()

    def rejected(self, failure: Failure) -> None:
        self._plan.rejected(failure)

    def requeue(self, job: Job) -> None:
        self._waiting[job.trial] = job.architecture


if __name__ == "__main__":
    main()
