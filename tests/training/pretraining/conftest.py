"""The raw pictures and token ids of the small project, and models that are pretrained on them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nas.config.pretraining_schema import PretrainingConfig
from nas.data.features.inputs import FeatureSources
from nas.data.features.store import FeatureSplit
from nas.data.mask_vocabulary import MaskVocabulary
from nas.models.fusion.supernet import build_model
from nas.search.pretraining import OBJECTIVES
from nas.search.space import RAW, EntryLayers
from nas.training.pretraining.settings import PretrainingSettings
from tests.support.building import build, feature_sources
from tests.support.project import Project
from tests.support.tiny_memory import RECIPE
from tests.support.tiny_pairs import FAMILY, TinyPairs, TinyPairsArchitecture


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the tiny family for one test: nothing that lists all families may see it."""
    monkeypatch.setattr("nas.models.fusion.supernet.load_model_class", lambda name: {FAMILY: TinyPairs}[name])


@pytest.fixture(scope="session")
def sources(project: Project) -> FeatureSources:
    return replace(feature_sources(project), entry_layers=frozenset([EntryLayers(RAW, RAW)]), uses_attention=False)


@pytest.fixture(scope="session")
def split(sources: FeatureSources, tmp_path_factory: pytest.TempPathFactory) -> FeatureSplit:
    return build(sources, tmp_path_factory.mktemp("raw")).splits["train"]


@pytest.fixture
def fresh(sources: FeatureSources) -> Callable[[], TinyPairs]:
    """Return a function that builds the model with its fresh weights."""

    def fresh_model() -> TinyPairs:
        model = build_model(
            image_encoder=sources.image_encoder,
            text_encoder=sources.text_encoder,
            architecture=TinyPairsArchitecture(6),
            num_classes=3,
            seed=4,
        )
        assert isinstance(model, TinyPairs)
        return model.to(torch.float32)

    return fresh_model


@pytest.fixture(scope="session")
def settings(sources: FeatureSources) -> PretrainingSettings:
    """All objectives, a queue of two batches and more, and a momentum by which the average really moves."""
    config = PretrainingConfig(steps=7, queue_size=13, momentum=0.9, checkpoint_steps=2)
    vocabulary = MaskVocabulary.of(sources.preprocessor.tokenizer)
    return PretrainingSettings(config, OBJECTIVES, RECIPE, vocabulary)
