"""Predicted peaks of a pretraining against those of real steps, to the byte."""

from dataclasses import replace

import pytest
import torch

from nas.config.data_schema import FeaturesConfig
from nas.config.pretraining_schema import PretrainingConfig
from nas.data.features.store import Batch
from nas.memory.prediction import MemoryModel, TraceCache
from nas.memory.step_tracing import TaskShapes
from nas.memory.tracker import PeakTracker
from nas.models.fusion.albef.architecture import ALBEFArchitecture
from nas.models.fusion.supernet import build_model
from nas.models.fusion.uniter.architecture import UNITERArchitecture
from nas.models.fusion.vilbert.architecture import ViLBERTArchitecture
from nas.models.fusion.vilt.architecture import ViLTArchitecture
from nas.models.fusion.vlmo.architecture import VLMoArchitecture
from nas.models.fusion.vse.architecture import VSEArchitecture
from nas.search.pretraining import OBJECTIVES, Objective
from nas.search.space import RAW, Architecture, SearchSpace
from nas.training.objectives.contrastive import PairItems
from nas.training.objectives.masked_language import MaskedTexts, max_masked_count
from nas.training.pretraining.pairs import PairBatch
from nas.training.pretraining.settings import PretrainingSettings
from nas.training.pretraining.step import Pretrainer
from tests.support.tiny_memory import IMAGE, RECIPE, TEXT, real_encoders
from tests.support.tiny_pairs import FAMILY, TinyPairs, TinyPairsArchitecture

ARCHITECTURE = TinyPairsArchitecture(12)
SPACE = SearchSpace(TinyPairsArchitecture, {"hidden": (4, 12)})
TOKENS, EMBEDDING, QUEUE = 9, 5, 40


def settings_of(objectives: tuple[Objective, ...], **changes: float) -> PretrainingSettings:
    config = PretrainingConfig(steps=3, queue_size=QUEUE).replace(**changes)
    return PretrainingSettings(config, objectives, RECIPE)


def predictions(
    settings: PretrainingSettings | None, monkeypatch: pytest.MonkeyPatch, traces: TraceCache | None = None
) -> MemoryModel:
    monkeypatch.setattr("nas.memory.step_tracing.load_model_class", lambda name: {FAMILY: TinyPairs}[name])
    memory = memory_of(SPACE, traces)
    memory.pretraining = settings
    return memory


def memory_of(space: SearchSpace, traces: TraceCache | None = None) -> MemoryModel:
    return MemoryModel(
        image_config=IMAGE,
        text_config=TEXT,
        recipe=RECIPE,
        features=FeaturesConfig(dtype="float16", disk_bytes=2**30, attention=False, views=1),
        space=space,
        task=TaskShapes((3, 32, 32), image_token_count=17, text_token_count=TOKENS, num_classes=5),
        traces=traces,
    )


def real_pretrainer(settings: PretrainingSettings) -> Pretrainer:
    image, text = real_encoders()
    return Pretrainer(
        TinyPairs(image_encoder=image, text_encoder=text, architecture=ARCHITECTURE, num_classes=5), settings
    )


def real_pairs(settings: PretrainingSettings, image_shape: tuple[int, ...] = (3, 32, 32)) -> PairBatch:
    size = RECIPE.batch_size
    count = max_masked_count(size, TOKENS)
    masked = MaskedTexts(torch.ones(size, TOKENS).long(), torch.arange(count), torch.ones(count).long())
    return PairBatch(
        Batch(
            image_tokens=torch.randn(size, *image_shape).half(),
            text_tokens=torch.ones(size, TOKENS).long(),
            text_mask=torch.ones(size, TOKENS, dtype=torch.bool),
            labels=torch.zeros(size).long(),
        ),
        PairItems(torch.arange(size), torch.arange(size)),
        torch.randn(2, size, size),
        masked if "masked_language" in settings.objectives else None,
    )


@pytest.mark.parametrize(
    ("objectives", "distillation"),
    [(OBJECTIVES, 0.4), (OBJECTIVES, 0.0), (("contrastive",), 0.4), (("matching",), 0.4), (("masked_language",), 0.4)],
)
def test_predicted_peak_of_a_pretraining_is_exact_to_the_byte(
    monkeypatch: pytest.MonkeyPatch, objectives: tuple[Objective, ...], distillation: float
) -> None:
    settings = settings_of(objectives, distillation=distillation)
    pretrainer = real_pretrainer(settings)
    pretrainer.fill_queue(real_pairs(settings))
    held = [*pretrainer.model.parameters(), *pretrainer.model.buffers(), *pretrainer.momentum_tensors()]
    held += [parameter for encoder in pretrainer.model.model.encoders for parameter in encoder.parameters()]
    tracker = PeakTracker(held)
    with tracker:
        pretrainer.accumulate_gradients(real_pairs(settings), distillation)
    prediction = predictions(settings, monkeypatch).predict(ARCHITECTURE)
    assert prediction.step_bytes == tracker.peak_bytes
    weights = 4 * sum(parameter.numel() for parameter in pretrainer.model.parameters())
    assert prediction.trained_bytes == weights and prediction.optimizer_bytes == 2 * weights
    queue = QUEUE * (2 * 4 * EMBEDDING + 2 * 8) if "contrastive" in objectives else 0
    average = weights if settings.has_momentum_model else 0
    assert prediction.momentum_bytes == queue + average


FUSION_TRANSFORMERS = (
    VSEArchitecture(24),
    ViLBERTArchitecture(1, 2),
    UNITERArchitecture(1),
    ViLTArchitecture(3),
    ALBEFArchitecture(1),
    VLMoArchitecture(1),
)


@pytest.mark.parametrize("architecture", FUSION_TRANSFORMERS, ids=lambda architecture: architecture.family)
def test_predicted_peak_of_a_pretrained_transformer_is_near_that_of_a_step(
    architecture: Architecture,
) -> None:
    settings = settings_of(architecture.pretraining_objectives)
    image, text = real_encoders()
    model = build_model(image_encoder=image, text_encoder=text, architecture=architecture, num_classes=5, seed=0)
    shape = (3, 32, 32) if model.entry_layers().image == RAW else (17, IMAGE.hidden_size)
    pretrainer = Pretrainer(model, settings)
    pretrainer.fill_queue(real_pairs(settings, shape))
    held = [*pretrainer.model.parameters(), *pretrainer.model.buffers(), *pretrainer.momentum_tensors()]
    held += [parameter for encoder in model.encoders for parameter in encoder.parameters()]
    with PeakTracker(held) as tracker:
        pretrainer.accumulate_gradients(real_pairs(settings, shape), settings.config.distillation)
    memory = memory_of(SearchSpace.around(architecture, type(architecture).num_layers(model.sizes)))
    memory.pretraining = settings
    prediction = memory.predict(architecture)
    assert prediction.step_bytes == pytest.approx(tracker.peak_bytes, rel=0.02)
    assert prediction.trained_bytes == 4 * sum(parameter.numel() for parameter in pretrainer.model.parameters())
    assert prediction.momentum_bytes == sum(
        tensor.numel() * tensor.element_size() for tensor in pretrainer.momentum_tensors()
    )


@pytest.mark.parametrize("modality_layers", [0, 1, 3])
def test_step_on_texts_alone_needs_less_than_the_least_on_pairs(modality_layers: int) -> None:
    architecture = VLMoArchitecture(modality_layers)
    image, text = real_encoders()
    model = build_model(image_encoder=image, text_encoder=text, architecture=architecture, num_classes=5, seed=0)
    settings = settings_of(("masked_language",), distillation=0.0, text_steps=2)
    pretrainer, pairs = Pretrainer(model, settings), real_pairs(settings)
    texts = replace(pairs, batch=replace(pairs.batch, image_tokens=torch.empty(RECIPE.batch_size, 0)))
    held = [*pretrainer.model.parameters(), *pretrainer.model.buffers()]
    held += [parameter for encoder in model.encoders for parameter in encoder.parameters()]
    with PeakTracker(held) as tracker:
        pretrainer.accumulate_text_gradients(texts)
    memory = memory_of(SearchSpace.around(architecture, type(architecture).num_layers(model.sizes)))
    memory.pretraining = settings
    assert 0 < tracker.peak_bytes < memory.predict(architecture).step_bytes


def test_prediction_is_that_of_the_stage_with_the_higher_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    without = predictions(None, monkeypatch)
    training = without.predict(ARCHITECTURE)
    both = predictions(settings_of(OBJECTIVES), monkeypatch)
    assert both.predict(ARCHITECTURE).peak_bytes > training.peak_bytes
    assert both.predict(ARCHITECTURE, micro_batches=6) == both.predict(ARCHITECTURE), "pairs are not divided"
    # A pretraining without a momentum model, a queue and negatives needs less than the training after it.
    little = PretrainingSettings(
        PretrainingConfig(steps=3, distillation=0.0), ("masked_language",), RECIPE.replace(batch_size=1)
    )
    assert predictions(little, monkeypatch).predict(ARCHITECTURE) == training
    assert both.parameter_count(ARCHITECTURE) == without.parameter_count(ARCHITECTURE), "heads are not counted"


def test_architecture_whose_pretraining_does_not_fit_is_infeasible(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = predictions(settings_of(OBJECTIVES), monkeypatch)
    peak = memory.predict(ARCHITECTURE).peak_bytes
    assert memory.min_micro_batches(ARCHITECTURE, peak) == 1
    assert memory.min_micro_batches(ARCHITECTURE, peak - 1) is None
    assert not memory.fits_in_micro_batches(ARCHITECTURE, peak - 1)
