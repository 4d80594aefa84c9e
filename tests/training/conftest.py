"""The little project with its features, and trainings of its supernet."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.common.progress import LineReporter
from nas.config.load import load_config
from nas.config.schema import Config
from nas.data.features.store import FeatureSplit
from nas.models.fusion.base import FusionModel
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.supernet import build_model
from nas.run.prepare import SearchContext, prepare
from tests.support.project import Project
from tests.support.supernet_training import TrainingCase, fresh_supernet, load_checkpoint, train_case


@pytest.fixture(scope="session")
def config(project: Project) -> Config:
    return load_config(project.root / "search.yaml")


@pytest.fixture(scope="session")
def prepared(config: Config, tmp_path_factory: pytest.TempPathFactory) -> SearchContext:
    reporter = LineReporter(io.StringIO())
    return prepare(config, source="", cache_directory=tmp_path_factory.mktemp("cache"), reporter=reporter)


@pytest.fixture
def split(prepared: SearchContext) -> FeatureSplit:
    return prepared.store.splits["train"]


@pytest.fixture
def fresh(prepared: SearchContext) -> Callable[..., FusionModel]:
    """Function that builds a model with fresh weights from a seed."""

    def build(seed: int = 0) -> FusionModel:
        return build_model(
            image_encoder=prepared.image_encoder,
            text_encoder=prepared.text_encoder,
            architecture=PMFArchitecture(1, 2, 2, 1, 8),
            num_classes=3,
            seed=seed,
        )

    return build


@pytest.fixture
def case(config: Config, prepared: SearchContext, tmp_path: Path) -> TrainingCase:
    """A supernet training with class weights and label smoothing."""
    recipe = config.recipe.replace(class_weights="inverse_frequency", label_smoothing=0.1)
    return TrainingCase(config.replace(recipe=recipe), prepared.store.directory, tmp_path / "supernet.pt")


@pytest.fixture
def single_process_checkpoint(case: TrainingCase, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Function that trains the case, with some fields changed, in one process and returns its last checkpoint."""

    def build(**changes: Any) -> dict[str, Any]:
        path = tmp_path / "single_process.pt"
        train_case(replace(case, checkpoint=path, **changes), fresh_supernet(case.config))
        return load_checkpoint(path)

    return build
