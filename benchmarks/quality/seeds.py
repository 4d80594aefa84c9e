"""Train one architecture with further seeds, several at once, with the parts of the program that train finalists."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nas.common.progress import Reporter
from nas.config.schema import Config
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup, full_weights_path
from nas.run.directory import read_run, read_study
from nas.run.executors import ExecutionOptions, write_worker_setup
from nas.run.export import TrainedWeights, export_result
from nas.run.finalize import read_report
from nas.run.model_parts import ModelParts
from nas.run.prepare import SearchContext, prepare
from nas.run.recipe_file import RECIPE, RecipeFile
from nas.run.reruns import RERUNS, RerunStore
from nas.run.time_budget import Deadlines, TimeAccount
from nas.search.keys import CandidateKey, DefaultKey, ModelKey, RerunKey
from nas.search.trial import Job, Result, job_seed

FIRST_FRESH = 1001
"""The number of the first seed that no search has; they have at most 100."""
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Rerunner:
    """Makes the trainings of one architecture with further seeds.

    Args:
        config: The configuration of the run.
        directory: The run directory.
        first: The first training of the architecture.
    """

    config: Config
    directory: Path
    first: Result

    def job(self, number: int) -> Job:
        """Return the job of one more training.

        Args:
            number: The number of the seed, from 1.
        """
        first = self.first
        return Job(
            key=RerunKey(origin_of(first.key), number),
            architecture=first.architecture,
            stage="full",
            step_count=first.step_count,
            seed=job_seed(self.config.seed, "full", first.architecture, rerun=number),
            predicted_peak_bytes=first.predicted_peak_bytes,
            micro_batches=first.micro_batches,
            recipe=RecipeFile(self.directory / RECIPE).setting,
        )


def origin_of(key: ModelKey) -> CandidateKey | DefaultKey:
    """Return the key of the first training of an architecture.

    Raises:
        ValueError: If there are no trainings of it with further seeds.
    """
    origin = key.origin if isinstance(key, RerunKey) else key
    if not isinstance(origin, CandidateKey | DefaultKey):
        raise ValueError(f"{key.name}: expected the training of a candidate or of the default")
    return origin


def fill_time(directory: Path, options: ExecutionOptions, reporter: Reporter) -> None:
    """Train the only architecture of a run with further seeds until its time is over.

    The time is that of the run, in which the recipe was tuned before. Without a time budget, all seeds are trained that
    `search.rerun_seeds` allows.

    Args:
        directory: The run directory.
        options: The number of processes.
        reporter: The receiver of messages.
    """
    run = read_run(directory)
    (first,) = read_study(directory, run).results("full")
    store, account = RerunStore(directory / RERUNS), TimeAccount(directory / "time.json")
    total, most = Deadlines.of_fractions(run.config.budget).total_seconds, run.config.search.rerun_seeds
    known = {result.key.number: result for result in store.results() if isinstance(result.key, RerunKey)}
    seconds = [first.seconds, *(result.seconds for result in known.values())]

    def may_start() -> bool:
        return account.spent_seconds + max(seconds) <= total

    if len(known) == most or not may_start():
        return
    prepared = prepare(run.config, source=str(directory), cache_directory=options.cache, reporter=reporter)
    rerunner = Rerunner(run.config, directory, first)
    jobs = (rerunner.job(number) for number in range(1, most + 1) if number not in known)

    def take(result: Result) -> None:
        store.add(result)
        seconds.append(result.seconds)
        reporter.note(f"{result.key.name}: {result.score:.4f} after {account.spent_seconds:.0f} s")

    with _workers(run.config, prepared, directory, options) as submit:
        account.start("race")
        try:
            run_jobs(submit, jobs, processes=_count(options), may_start=may_start, take=take, tick=account.tick)
        finally:
            account.stop()


def train_fresh(
    directory: Path, role: str, target: Path, numbers: int, options: ExecutionOptions, reporter: Reporter
) -> None:
    """Train the architecture of an exported model with seeds that had no part in choosing it, and export the models.

    Args:
        directory: The directory of the finished run.
        role: The role of the model in the run's report.
        target: The folder of the new models.
        numbers: The number of seeds.
        options: The number of processes.
        reporter: The receiver of messages.
    """
    run = read_run(directory)
    chosen = Result.from_dict(read_report(directory)[role]["result"])
    prepared = prepare(run.config, source=str(directory), cache_directory=options.cache, reporter=reporter)
    rerunner = Rerunner(run.config, directory, chosen)
    jobs = iter([rerunner.job(FIRST_FRESH + number) for number in range(numbers)])

    def take(result: Result) -> None:
        assert isinstance(result.key, RerunKey)
        weights = TrainedWeights.of(directory, result, run.config.space)
        export_result(
            target / f"seed-{result.key.number - FIRST_FRESH}",
            weights,
            parts=ModelParts.of(prepared),
            objective=run.config.search.objective,
            data=run.config.data,
        )
        weights.path.unlink()
        reporter.note(f"{result.key.name}: {result.score:.4f}")

    with _workers(run.config, prepared, directory, options) as submit:
        run_jobs(submit, jobs, processes=_count(options), may_start=lambda: True, take=take)


def train_jobs(
    directory: Path,
    jobs: Iterator[Job],
    options: ExecutionOptions,
    reporter: Reporter,
    take: Callable[[Result], None],
) -> None:
    """Train further models of a finished run, of which only the scores are kept.

    Args:
        directory: The run directory.
        jobs: The full trainings.
        options: The number of processes.
        reporter: The receiver of messages.
        take: Receives the result of every training.
    """
    run = read_run(directory)
    prepared = prepare(run.config, source=str(directory), cache_directory=options.cache, reporter=reporter)

    def take_score(result: Result) -> None:
        full_weights_path(directory, result.key).unlink()
        take(result)

    with _workers(run.config, prepared, directory, options) as submit:
        run_jobs(submit, jobs, processes=_count(options), may_start=lambda: True, take=take_score)


def _count(options: ExecutionOptions) -> int:
    return options.worker_count or 1


@contextmanager
def _workers(
    config: Config, prepared: SearchContext, directory: Path, options: ExecutionOptions
) -> Iterator[Callable[[Job], Future[Result]]]:
    """Start processes that train with one thread each; with 0 workers, a thread of this process.

    Yields:
        The function that starts a job.
    """
    setup = write_worker_setup(config, prepared, directory, thread_count=1)
    if options.worker_count == 0:
        with ThreadPoolExecutor(1, initializer=_Worker.start, initargs=(setup,)) as threads:
            yield lambda job: threads.submit(_Worker.train, job)
        return
    context = multiprocessing.get_context("spawn")  # forked processes would inherit locks
    with ProcessPoolExecutor(_count(options), context, _Worker.start, (setup,)) as pool:
        for waiting in [pool.submit(_Worker.is_ready) for _ in range(_count(options))]:
            waiting.result()  # the start of the processes is not counted, like that of a search's workers
        yield lambda job: pool.submit(_Worker.train, job)


class _Worker:
    """The worker of a process."""

    current: CandidateWorker | None = None

    @classmethod
    def start(cls, setup: WorkerSetup) -> None:
        cls.current = CandidateWorker(setup)

    @classmethod
    def is_ready(cls) -> bool:
        return cls.current is not None

    @classmethod
    def train(cls, job: Job) -> Result:
        assert cls.current is not None
        (result,) = cls.current.run(job, limit_bytes=None)
        return result


def run_jobs(
    submit: Callable[[Job], Future[Result]],
    jobs: Iterator[Job],
    *,
    processes: int,
    may_start: Callable[[], bool],
    take: Callable[[Result], None],
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Run jobs as long as there is time for another one, and take the results as they come.

    Args:
        submit: Starts a job.
        jobs: The jobs in their order.
        processes: The number of jobs that run at once.
        may_start: Returns whether there is time for another job.
        take: Receives the result of every job.
        tick: Called about once a second.
    """
    running: set[Future[Result]] = set()
    while True:
        while len(running) < processes and may_start() and (job := next(jobs, None)) is not None:
            running.add(submit(job))
        if not running:
            return
        ended, running = wait(running, _POLL_SECONDS, FIRST_COMPLETED)
        tick()
        for future in ended:
            take(future.result())
