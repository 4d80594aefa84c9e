"""A full training that two workers share, each in a process with an accelerator of its own."""

import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.search.keys import CandidateKey
from nas.search.trial import Failure, Job, Result
from nas.training.distributed import distributed_group, free_address
from nas.training.gradient_sum import JOINED_BYTES
from tests.support import simulated_accelerator
from tests.support.factories import make_job

pytestmark = pytest.mark.accelerator

PROCESS_SECONDS = 240.0
"""Longest run of a process, after which it is killed."""


def run_part(setup: WorkerSetup, job: Job, rank: int, address: str, path: Path) -> None:
    """Do the part of one process, and write its outcomes to a file."""
    torch.set_num_threads(1)
    if setup.device.startswith(simulated_accelerator.NAME):
        simulated_accelerator.load()
    worker = CandidateWorker(setup)
    with distributed_group(rank=rank, size=2, address=address, timeout_seconds=PROCESS_SECONDS) as group:
        outcomes = worker.outcomes(job, limit_bytes=None, group=group)
    path.write_bytes(pickle.dumps(outcomes))


def run_shared(setup: WorkerSetup, job: Job, directory: Path) -> list[list[Result | Failure]]:
    """Run a training in two processes; return the outcomes of each."""
    address, paths = free_address(), [directory / f"{rank}.pickle" for rank in range(2)]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=run_part, args=(setup, job, rank, address, path)) for rank, path in enumerate(paths)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PROCESS_SECONDS)
        process.kill()
        process.join()
    return [pickle.loads(path.read_bytes()) for path in paths]


def test_shared_training_has_the_result_of_one_worker_and_needs_no_more_memory(
    setup: WorkerSetup, device: torch.device, tmp_path: Path
) -> None:
    recipe = setup.config.recipe.replace(class_weights="inverse_frequency", batch_size=7)
    own = replace(setup, config=setup.config.replace(recipe=recipe), device=str(device))
    alone, shared = (replace(make_job(trial=trial, stage="full", step_count=4), micro_batches=2) for trial in (21, 22))
    (expected,) = CandidateWorker(own).outcomes(alone, limit_bytes=None)
    first, second = run_shared(own, shared, tmp_path)
    assert second == []
    (found,) = first
    assert isinstance(found, Result) and isinstance(expected, Result), (found, expected)
    assert (found.device_count, expected.device_count) == (2, 1)
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-5)
    weights = [load_file(setup.weights_path(CandidateKey(trial))) for trial in (21, 22)]
    torch.testing.assert_close(weights[1], weights[0], atol=1e-5, rtol=0)
    assert found.measured_peak_bytes <= expected.measured_peak_bytes + JOINED_BYTES
