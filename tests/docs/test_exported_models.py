"""The Python code of `docs/exported-models.md` runs as it is printed, in its order."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nas.config.load import load_config
from nas.run.export import assemble, export
from nas.run.model_parts import ModelParts
from tests.run.test_export import ARCHITECTURES, trained
from tests.support.documents import blocks
from tests.support.paths import REPOSITORY
from tests.support.project import Project

DOCUMENT = REPOSITORY / "docs" / "exported-models.md"


@pytest.fixture
def place(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory that the page assumes: a model, pictures and tables."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(project.images, "photos")
    for name in ("picture.png", "a.png", "b.png"):
        shutil.copy(project.images / "000.png", name)
    shutil.copy(project.manifest, "new.csv")
    config = load_config(project.root / "search.yaml")
    parts = ModelParts.load(config, ("blue", "green", "red"))
    model = assemble(
        image_encoder=parts.image_encoder,
        text_encoder=parts.text_encoder,
        trained=trained(parts, ARCHITECTURES[0]),
        class_names=parts.class_names,
        max_text_tokens=parts.max_text_tokens,
    )
    export(
        tmp_path / "my_model",
        model=model,
        image_processor=parts.image_processor,
        tokenizer=parts.tokenizer,
        facts={"data": config.data.form()},
    )
    return tmp_path


@pytest.mark.slow
def test_code_of_the_page_runs(place: Path) -> None:
    frame = pd.read_csv("new.csv")
    data = [{**row, "image": f"photos/{row['image']}"} for row in frame.to_dict("records")]
    names: dict[str, Any] = {"frame": frame, "data": data}
    for block in blocks(DOCUMENT, "python"):
        exec(compile(block, str(DOCUMENT), "exec"), names)
    assert names["logits"].shape == (2, 3)
    assert names["trainer"].state.global_step == 3
    assert np.isfinite(names["trainer"].state.log_history[-1]["train_loss"])
    assert (place / "tuned" / "model.safetensors").is_file()
