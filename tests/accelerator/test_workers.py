"""The jobs of a worker on an accelerator: the results of the CPU, within a limit of memory."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nas.common.devices import HostCopy
from nas.data.features.store import Batch
from nas.execution.base import SupernetJob
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.models.encoders.partial_checkpoint import load_tail, save_tail
from nas.models.fusion.base import FusionModel
from nas.search.keys import CandidateKey
from nas.search.trial import Failure, Result, Stage
from nas.training.distributed import SingleProcessGroup
from nas.training.losses import Loss
from tests.support.factories import make_job
from tests.support.simulated_accelerator import SYNCHRONISATIONS, operators

pytestmark = pytest.mark.accelerator


@pytest.fixture
def worker(setup: WorkerSetup, device: torch.device) -> CandidateWorker:
    return CandidateWorker(replace(setup, device=str(device)))


@pytest.mark.parametrize(("stage", "steps"), [("one_shot", 0), ("short", 3), ("full", 4)])
def test_job_of_every_stage_has_the_result_of_the_cpu(
    setup: WorkerSetup, worker: CandidateWorker, stage: Stage, steps: int
) -> None:
    found = []
    for trial, own in enumerate((CandidateWorker(setup), worker)):
        (result,) = own.outcomes(make_job(trial=trial, stage=stage, step_count=steps), limit_bytes=None)
        assert isinstance(result, Result), result
        weights = {} if stage == "one_shot" else load_file(setup.weights_path(CandidateKey(trial), stage))
        found.append((result.metrics, weights))
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-5, rtol=1e-4)


def test_training_in_bfloat16_has_the_result_of_the_cpu_up_to_rounding(
    setup: WorkerSetup, device: torch.device, tmp_path: Path
) -> None:
    config = setup.config.replace(recipe=setup.config.recipe.replace(precision="bfloat16"))
    half = replace(setup, config=config, run_directory=tmp_path)
    configs = setup.image_config, setup.text_config
    for own, first, source, target in zip(
        configs, setup.first_layers, setup.frozen_paths, half.frozen_paths, strict=True
    ):
        save_tail(load_tail(own, first, source), first, target, "bfloat16")
    found = []
    for place in ("cpu", str(device)):
        (result,) = CandidateWorker(replace(half, device=place)).outcomes(
            make_job(stage="full", step_count=4), limit_bytes=None
        )
        assert isinstance(result, Result) and result.precision == "bfloat16", result
        weights = load_file(half.weights_path(CandidateKey(0), "full"))
        assert {values.dtype for values in weights.values()} == {torch.float32}
        found.append(torch.cat([values.flatten() for values in weights.values()]))
    # The CPU's attention and that of other devices round at different places.
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 2**-5


def test_supernet_is_trained_as_on_the_cpu(setup: WorkerSetup, device: torch.device, tmp_path: Path) -> None:
    found = []
    for place in ("cpu", str(device)):
        directory = tmp_path / place.partition(":")[0]
        directory.mkdir()
        for path in setup.frozen_paths:
            (directory / path.name).symlink_to(path)
        own = replace(setup, run_directory=directory, device=place)
        job = SupernetJob(None, {}, peak_bytes=1)
        done = CandidateWorker(own).train_supernet(
            job, SingleProcessGroup(), limit_bytes=None, on_progress=lambda progress: None
        )
        assert done == setup.config.supernet.steps
        found.append(load_file(own.supernet_path))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("simulated")
def test_more_memory_than_granted_is_a_failure_of_the_job_and_the_next_one_runs(worker: CandidateWorker) -> None:
    job = make_job(stage="full", step_count=2)
    (result,) = worker.outcomes(job, limit_bytes=None)
    assert isinstance(result, Result) and result.measured_peak_bytes > 0
    (failure,) = worker.outcomes(job, limit_bytes=result.measured_peak_bytes // 2)
    assert isinstance(failure, Failure) and failure.kind == "memory", failure
    (again,) = worker.outcomes(job, limit_bytes=2 * result.measured_peak_bytes)
    assert isinstance(again, Result) and again.score == result.score


def test_batch_that_is_left_on_the_host_is_found(worker: CandidateWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Batch, "to", lambda batch, device: batch)
    (failure,) = worker.outcomes(make_job(stage="full", step_count=1), limit_bytes=None)
    assert isinstance(failure, Failure) and "xpected all tensors" in failure.reason


def test_weights_of_the_loss_that_are_left_on_the_host_are_found(
    setup: WorkerSetup, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loss, "to", lambda loss, device: loss)
    recipe = setup.config.recipe.replace(class_weights="inverse_frequency")
    worker = CandidateWorker(replace(setup, config=setup.config.replace(recipe=recipe), device=str(device)))
    (failure,) = worker.outcomes(make_job(stage="full", step_count=1), limit_bytes=None)
    assert isinstance(failure, Failure) and "on the same device" in failure.reason


def test_model_that_is_left_on_the_host_is_found(worker: CandidateWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FusionModel, "to", lambda model, device: model)
    (failure,) = worker.outcomes(make_job(stage="full", step_count=1), limit_bytes=None)
    assert isinstance(failure, Failure) and "xpected all tensors" in failure.reason


@pytest.mark.usefixtures("simulated")
def test_loss_that_is_read_before_it_has_arrived_is_found(
    worker: CandidateWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostCopy, "wait", lambda copied: copied._values)
    (failure,) = worker.outcomes(make_job(stage="full", step_count=1), limit_bytes=None)
    assert isinstance(failure, Failure) and "the loss is nan at step 0" in failure.reason


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize("wait", [Tensor.item, Tensor.cpu, Tensor.nonzero], ids=["item", "cpu", "nonzero"])
def test_wait_of_the_host_in_a_training_step_is_found(
    worker: CandidateWorker, monkeypatch: pytest.MonkeyPatch, wait: Callable[[Tensor], object]
) -> None:
    weighted_sum = Loss.weighted_sum

    def waits(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
        found = weighted_sum(loss, logits, labels)
        wait(found.detach())
        return found

    monkeypatch.setattr(Loss, "weighted_sum", waits)
    assert sum(waits_of_a_step(worker).values()) == 1


def waits_of_a_step(worker: CandidateWorker) -> dict[str, int]:
    """Return how often the host waits in a training step, by what it waits for."""
    counts = {}
    for steps in (2, 3):
        with operators() as found:
            (result,) = worker.outcomes(make_job(stage="full", step_count=steps), limit_bytes=None)
        assert isinstance(result, Result), result
        counts[steps] = found
    return {name: counts[3].get(name, 0) - counts[2].get(name, 0) for name in SYNCHRONISATIONS}


@pytest.mark.usefixtures("simulated")
def test_host_waits_for_nothing_in_a_training_step(worker: CandidateWorker) -> None:
    assert waits_of_a_step(worker) == dict.fromkeys(SYNCHRONISATIONS, 0)


def test_deterministic_search_takes_deterministic_kernels(
    setup: WorkerSetup, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    try:
        for place in ("cpu", str(device)):
            assert not torch.are_deterministic_algorithms_enabled()
            config = setup.config.replace(deterministic=True)
            CandidateWorker(replace(setup, config=config, device=place))
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
