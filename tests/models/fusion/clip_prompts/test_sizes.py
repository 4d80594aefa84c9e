"""Trained parameters and peak memory of MaPLe with the encoders of CLIP ViT-B/16, as the docs state them."""

from pathlib import Path

import pytest
from transformers import CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

from nas.config.data_schema import FeaturesConfig
from nas.memory.prediction import MemoryModel
from nas.memory.step_tracing import TaskShapes
from nas.models.class_texts import ClassTexts
from nas.models.encoders.contrastive import HEAD
from nas.models.fusion.clip_prompts.architecture import BRANCHES
from nas.models.fusion.maple.architecture import MaPLeArchitecture
from nas.models.fusion.vpt_clip.architecture import VPTCLIPArchitecture
from nas.search.space import Architecture, SearchSpace
from tests.support.tiny_memory import RECIPE

PAPERS = MaPLeArchitecture(9, 2)
DOCS = (Path(__file__).parents[4] / "docs" / "families.md").read_text(encoding="utf-8")


def memory_of(architecture: Architecture, batch_size: int) -> MemoryModel:
    image: PreTrainedConfig = CLIPVisionConfig(image_size=224, patch_size=16)
    text: PreTrainedConfig = CLIPTextConfig(hidden_size=512, intermediate_size=2048, num_attention_heads=8)
    for config in (image, text):
        setattr(config, HEAD, {"projection_size": 512, "logit_scale": 100.0})
    # "a photo of a {}" with names of one to three tokens.
    texts = ClassTexts.of([[[1, 5, 6, 7, 8, *[9] * (1 + index % 3), 2] for index in range(100)]], [4])
    return MemoryModel(
        image_config=image,
        text_config=text,
        recipe=RECIPE.replace(optimizer="sgd", batch_size=batch_size),
        task=TaskShapes((3, 224, 224), 197, 16, num_classes=100, class_texts=texts),
        features=FeaturesConfig(dtype="float16", disk_bytes=2**30, attention=False, views=1),
        space=SearchSpace.around(architecture, 12),
    )


@pytest.mark.parametrize(
    ("architecture", "batch_size", "title", "parameters"),
    [
        (PAPERS, 4, "`coupled`", 9 * 2 * 512 + 9 * (512 + 1) * 768),
        (MaPLeArchitecture(9, 2, BRANCHES.index("language")), 4, "`language`", 9 * 2 * 512),
        (VPTCLIPArchitecture(9, 2), 4, "`vision`", 9 * 2 * 768),
        (PAPERS, 32, "`coupled`", 3_555_072),
    ],
)
def test_documented_sizes_are_those_predicted(
    architecture: Architecture, batch_size: int, title: str, parameters: int
) -> None:
    memory = memory_of(architecture, batch_size)
    assert memory.parameter_count(architecture) == parameters
    row = next(line for line in DOCS.splitlines() if line.startswith(f"| {title} |")).split("|")
    assert int(row[2].replace(",", "")) == parameters
    stated = int(row[3 if batch_size == 4 else 4].replace(",", ""))
    step_bytes = memory.predict(architecture, micro_batches=1).step_bytes
    assert step_bytes / 2**20 == pytest.approx(stated, rel=0.01)
