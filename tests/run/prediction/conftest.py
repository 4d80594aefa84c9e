"""An exported model of the small project, which tests must not change."""

from pathlib import Path

import pytest

from nas.config.load import load_config
from nas.run.export import assemble, export
from nas.run.exported_model import ExportedModel, open_exported
from nas.run.model_parts import ModelParts
from tests.run.test_export import ARCHITECTURES, trained
from tests.support.project import Project


@pytest.fixture(scope="session")
def model(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model."""
    folder = tmp_path_factory.mktemp("prediction") / "model"
    config = load_config(project.root / "search.yaml")
    parts = ModelParts.load(config, ("blue", "green", "red"))
    export(
        folder,
        model=assemble(
            image_encoder=parts.image_encoder,
            text_encoder=parts.text_encoder,
            trained=trained(parts, ARCHITECTURES[0]),
            class_names=parts.class_names,
            max_text_tokens=parts.max_text_tokens,
        ),
        image_processor=parts.image_processor,
        tokenizer=parts.tokenizer,
        facts={"data": config.data.form()},
    )
    return folder


@pytest.fixture(scope="session")
def exported(model: Path) -> ExportedModel:
    return open_exported(model)
