"""Predicted memory of an accelerator against the peaks that its allocator counts."""

import gc
import statistics
from dataclasses import replace

import pytest
import torch

from nas.common import devices
from nas.config.choices import FeatureStorage
from nas.config.data_schema import FeaturesConfig
from nas.data.features.frozen import FrozenLayers
from nas.data.features.store import Batch
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.memory.prediction import MemoryModel, PeakPrediction, TraceCache
from nas.memory.step_tracing import TaskShapes
from nas.models.encoders.base import Encoder
from nas.models.encoders.bert import BertEncoder
from nas.models.encoders.vit import ViTEncoder
from nas.models.fusion.base import FusionModel, features_of
from nas.models.fusion.supernet import build_model, build_supernet
from nas.run.memory_model import build_memory_model
from nas.search.space import RAW, Architecture
from nas.search.space.family_registry import FAMILIES
from nas.search.trial import Failure, Result, Stage
from nas.training.losses import Loss
from nas.training.trainer import Trainer
from tests.models.fusion.test_contract import middling, space_of
from tests.support.factories import ARCHITECTURE, make_job
from tests.support.tiny import bert_model, raw_batch, vit_model
from tests.support.tiny_clip import reads_class_texts
from tests.support.tiny_memory import RECIPE

pytestmark = pytest.mark.accelerator

SIZE, CLASSES = 12, 5
STAGES: tuple[tuple[Stage, int], ...] = (("one_shot", 0), ("short", 2), ("full", 2))
MEDIAN_ERROR, LARGEST_ERROR = 0.03, 0.08


@pytest.fixture(scope="module")
def pair(device: torch.device) -> tuple[Encoder, Encoder]:
    """Encoders on the accelerator, larger than usual in tests: small tensors are mostly rounding."""
    image, text = vit_model(width=96, dtype=torch.float32), bert_model(width=64, dtype=torch.float32)
    pair = ViTEncoder(image), BertEncoder(text)
    for encoder in pair:
        encoder.to(device)
    return pair


def memory_of(
    pair: tuple[Encoder, Encoder], family: str, device: torch.device, storage: FeatureStorage = "auto"
) -> MemoryModel:
    return MemoryModel(
        image_config=pair[0].config,
        text_config=pair[1].config,
        recipe=RECIPE.replace(batch_size=SIZE, optimizer="sgd"),
        features=FeaturesConfig(dtype="float16", disk_bytes=2**30, attention=False, views=1, storage=storage),
        space=space_of(family),
        task=TaskShapes((3, 16, 16), image_token_count=5, text_token_count=7, num_classes=CLASSES),
        traces=TraceCache(device, is_eager=True),
    )


def batch_of(model: FusionModel, architecture: Architecture, size: int, device: torch.device) -> Batch:
    """Return a batch on the host, as a feature store would read it."""
    pixels, ids, _ = raw_batch(size=size)
    mask = torch.ones(size, 7, dtype=torch.bool)
    with torch.no_grad():
        reads = model.entry_layers(architecture)
        inputs = (pixels.float().to(device), ids.to(device), mask.to(device))
        features = features_of(model.encoders, reads, *inputs)
    tokens = (features.image_tokens.cpu(), features.text_tokens.cpu())
    image, text = (values.half() if values.is_floating_point() else values for values in tokens)
    return Batch(image_tokens=image, text_tokens=text, text_mask=mask, labels=torch.zeros(size, dtype=torch.int64))


def raw_batch_of(model: FusionModel, architecture: Architecture) -> Batch:
    """Return a batch on the host of which nothing was stored."""
    pixels, ids, _ = raw_batch(size=SIZE)
    image, text = (
        None if layer is None or layer == RAW else FrozenLayers(encoder, RAW, layer)
        for encoder, layer in zip(model.encoders, model.entry_layers(architecture), strict=True)
    )
    return Batch(
        image_tokens=pixels.float(),
        text_tokens=ids,
        text_mask=torch.ones(SIZE, 7, dtype=torch.bool),
        labels=torch.zeros(SIZE, dtype=torch.int64),
        image_layers=image,
        text_layers=text,
    )


def measured_peak(
    model: FusionModel,
    architecture: Architecture,
    device: torch.device,
    before: int,
    parts: int = 1,
    batches: list[Batch] | None = None,
) -> int:
    """Return the peak of two training steps, the second with an optimizer state, above what was there before."""
    recipe = RECIPE.replace(batch_size=SIZE, optimizer="sgd")
    trainer = Trainer(model=model, recipe=recipe, step_count=2, loss=Loss(None, 0.0))
    batches = batches or [batch_of(model, architecture, SIZE // parts, device) for _ in range(parts)]
    devices.start_peak(device)
    for step in range(2):
        trainer.step(step, batches, SIZE, architecture)
    return devices.allocated_peak_bytes(device) - before


def live_bytes(device: torch.device) -> int:
    gc.collect()
    devices.start_peak(device)
    return devices.allocated_peak_bytes(device)


def needed(prediction: PeakPrediction) -> int:
    """Return the predicted bytes of the tensors."""
    fixed = prediction.process_bytes + prediction.allocator_bytes + prediction.frozen_bytes
    return prediction.peak_bytes - fixed


def test_predicted_peaks_of_all_families_are_those_of_the_allocator(
    pair: tuple[Encoder, Encoder], device: torch.device
) -> None:
    errors: dict[str, float] = {}
    for family in FAMILIES:
        if reads_class_texts(family):
            continue  # their encoders are those of a contrastive checkpoint
        memory = memory_of(pair, family, device)
        memory.holds_supernet = False
        for parts in (1, 2):
            before = live_bytes(device)
            architecture = middling(family)
            model = build_model(
                image_encoder=pair[0], text_encoder=pair[1], architecture=architecture, num_classes=CLASSES, seed=0
            ).to(device)
            predicted = needed(memory.predict(architecture, micro_batches=parts))
            measured = measured_peak(model, architecture, device, before, parts)
            errors[f"{family} in {parts}"] = abs(predicted / measured - 1)
            del model
    assert statistics.median(errors.values()) <= MEDIAN_ERROR, errors
    assert max(errors.values()) <= LARGEST_ERROR, errors


@pytest.mark.parametrize("family", ["pmf", "mbt", "late_concat", "uniter"])
def test_predicted_peak_of_a_step_without_stored_features_counts_its_frozen_layers(
    family: str, pair: tuple[Encoder, Encoder], device: torch.device
) -> None:
    before, architecture = live_bytes(device), space_of(family).smallest
    model = build_model(
        image_encoder=pair[0], text_encoder=pair[1], architecture=architecture, num_classes=CLASSES, seed=0
    ).to(device)
    peaks = {}
    for storage in ("none", "auto"):
        memory = memory_of(pair, family, device, storage)
        memory.holds_supernet = False
        peaks[storage] = needed(memory.predict(architecture))
    batches = [raw_batch_of(model, architecture)]
    assert peaks["none"] == pytest.approx(
        measured_peak(model, architecture, device, before, batches=batches), rel=LARGEST_ERROR
    )
    if family == "pmf":  # the smallest computes the last layer only, which needs less than the layers below it
        assert peaks["none"] > peaks["auto"] * (1 + LARGEST_ERROR)


@pytest.mark.parametrize("family", ["pmf", "mbt", "prompt_fuse", "vilbert", "vilt"])
def test_predicted_peak_of_a_supernet_step_is_that_of_the_allocator(
    family: str, pair: tuple[Encoder, Encoder], device: torch.device
) -> None:
    before, architecture = live_bytes(device), middling(family)
    supernet = build_supernet(
        image_encoder=pair[0], text_encoder=pair[1], space=space_of(family), num_classes=CLASSES, seed=0
    ).to(device)
    prediction = memory_of(pair, family, device).predict_supernet(architecture)
    predicted = needed(prediction) - prediction.gradient_sum_bytes
    assert predicted == pytest.approx(measured_peak(supernet, architecture, device, before), rel=LARGEST_ERROR)


def test_host_memory_of_a_worker_has_a_limit_of_its_own(
    setup: WorkerSetup, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.execution.grant.usable_host_memory", lambda: 2**20)
    held: list[tuple[int, int]] = []
    own = replace(setup, device=str(device), worker_count=2)
    worker = CandidateWorker(own, lambda *given: held.append(given))
    (failure,) = worker.outcomes(make_job(stage="full", step_count=2), limit_bytes=None)
    assert isinstance(failure, Failure) and failure.kind == "memory", failure
    assert failure.reason.endswith(" bytes held on the host, 524288 granted")
    assert held[0][0] > held[0][1] == 2**19


@pytest.mark.usefixtures("simulated")
def test_jobs_of_a_worker_need_what_is_predicted(setup: WorkerSetup, device: torch.device) -> None:
    before, recipe = live_bytes(device), setup.config.recipe.replace(optimizer="sgd", weight_decay=0.0)
    own = replace(setup, device=str(device), config=setup.config.replace(recipe=recipe))
    worker = CandidateWorker(own)
    store = worker.open_features(setup.feature_directory)
    memory = build_memory_model(
        own.config,
        (setup.image_config, setup.text_config),
        TaskShapes(
            (3, 16, 16),
            store.image_token_count,
            store.longest_text,
            num_classes=len(store.class_names),
            train_samples=len(store.splits["train"]),
        ),
        first_layers=setup.first_layers,
        device=device,
    )
    prediction = memory.predict(ARCHITECTURE)
    assert live_bytes(device) - before == prediction.frozen_bytes > 0
    expected = needed(prediction) + prediction.frozen_bytes
    peaks = {}
    for stage, steps in STAGES:
        (result,) = worker.outcomes(make_job(stage=stage, step_count=steps), limit_bytes=None)
        assert isinstance(result, Result), result
        peaks[stage] = result.measured_peak_bytes - before
    assert peaks["one_shot"] <= expected
    for stage in ("short", "full"):
        assert peaks[stage] == pytest.approx(expected, rel=LARGEST_ERROR)
    # The grant is a bound of the allocator: what is predicted is enough, and much less is not.
    enough = before + int(expected * (1 + LARGEST_ERROR))
    (result,) = worker.outcomes(make_job(stage="full", step_count=2), limit_bytes=enough)
    assert isinstance(result, Result), result
    (failure,) = worker.outcomes(make_job(stage="full", step_count=2), limit_bytes=before + expected // 2)
    assert isinstance(failure, Failure) and failure.kind == "memory"
