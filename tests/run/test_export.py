from dataclasses import replace
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import load_file

from nas.common.errors import ExportError
from nas.config.load import load_config
from nas.models.classifier import FusionForClassification
from nas.models.fusion.base import FusionModel
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.supernet import build_model
from nas.run.export import assemble, export
from nas.run.exported_model import open_exported
from nas.run.model_card import describe
from nas.run.model_parts import ModelParts
from nas.search.space import Architecture
from tests.support.project import Project
from tests.support.tiny import base_features

ARCHITECTURES = [
    PMFArchitecture(1, 2, 2, 1, 8),
    PMFArchitecture(0, 1, 0, 0, 4),
    PMFArchitecture(1, ((2, 1), (3, 3)), 2, ((0, 1), (0, 1)), ((8, 4), (2, 6))),
]
IMAGES = [Image.new("RGB", (20, 20), colour) for colour in ((200, 10, 10), (10, 200, 10), (5, 5, 5))]
TEXTS = ["apple boat", "cat", "dog egg fox apple"]


@pytest.fixture(scope="module")
def parts(project: Project) -> ModelParts:
    return ModelParts.load(load_config(project.root / "search.yaml"), ("blue", "green", "red"))


def trained(parts: ModelParts, architecture: Architecture) -> FusionModel:
    return build_model(
        image_encoder=parts.image_encoder,
        text_encoder=parts.text_encoder,
        architecture=architecture,
        num_classes=3,
        seed=5,
    )


def exported_to(directory: Path, parts: ModelParts, architecture: Architecture) -> FusionModel:
    model = trained(parts, architecture)
    export(
        directory,
        model=assemble(
            image_encoder=parts.image_encoder,
            text_encoder=parts.text_encoder,
            trained=model,
            class_names=parts.class_names,
            max_text_tokens=parts.max_text_tokens,
        ),
        image_processor=parts.image_processor,
        tokenizer=parts.tokenizer,
        facts={"validation": {"accuracy": 0.5}, "trial": 3},
    )
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_reloaded_model_gives_the_same_logits_to_the_bit(
    parts: ModelParts, tmp_path: Path, architecture: PMFArchitecture
) -> None:
    model = exported_to(tmp_path / "model", parts, architecture)
    reloaded = open_exported(tmp_path / "model")
    ids, mask = reloaded.preprocessor.tokenize(TEXTS)
    pixels = reloaded.preprocessor.pixel_values(IMAGES)
    features = base_features(parts.image_encoder, parts.text_encoder, architecture.fusion_layer, pixels, ids, mask)
    with torch.inference_mode():
        assert torch.equal(reloaded.logits(IMAGES, TEXTS), model(features))
    is_frozen = {name.partition(".")[0]: not tensor.requires_grad for name, tensor in reloaded.model.named_parameters()}
    assert is_frozen == {"image_encoder": True, "text_encoder": True, "fusion": False}
    assert reloaded.class_names == parts.class_names


def test_folder_holds_every_weight_and_needs_nothing_else(parts: ModelParts, tmp_path: Path) -> None:
    exported_to(tmp_path / "model", parts, ARCHITECTURES[0])
    moved = (tmp_path / "model").rename(tmp_path / "elsewhere")
    names = {path.name for path in moved.iterdir()}
    assert {"config.json", "model.safetensors", "architecture.yaml", "README.md", "preprocessor_config.json"} <= names
    assert {"tokenizer.json", "tokenizer_config.json"} <= names
    stored = load_file(moved / "model.safetensors")
    model, report = FusionForClassification.from_pretrained(moved, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    # transformers stores some families under their older names, so sizes are compared, not names
    sizes = [sorted(t.numel() for t in tensors.values()) for tensors in (stored, model.state_dict())]
    assert sizes[0] == sizes[1]
    assert model.config.num_labels == 3 and not model.training


def test_loss_is_the_cross_entropy_of_the_logits(parts: ModelParts, tmp_path: Path) -> None:
    exported_to(tmp_path / "model", parts, ARCHITECTURES[0])
    reloaded = open_exported(tmp_path / "model")
    ids, mask = reloaded.preprocessor.tokenize(TEXTS)
    labels = torch.tensor([0, 2, 1])
    output = reloaded.model(reloaded.preprocessor.pixel_values(IMAGES), ids, mask, labels=labels)
    expected = -output.logits.log_softmax(dim=1)[torch.arange(3), labels].mean()
    torch.testing.assert_close(output.loss, expected)


def test_model_card_and_description_hold_all_facts(parts: ModelParts, tmp_path: Path) -> None:
    exported_to(tmp_path / "model", parts, ARCHITECTURES[0])
    describe(tmp_path / "model", {"test": {"accuracy": 0.4321}})
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| test accuracy | 0.4321 |" in card and "| mapping width | 8 |" in card and "blue, green, red" in card
    assert "mapping_width: 8" in (tmp_path / "model" / "architecture.yaml").read_text()


def test_exported_model_is_replaced_and_other_folders_are_not(parts: ModelParts, tmp_path: Path) -> None:
    exported_to(tmp_path / "model", parts, ARCHITECTURES[0])
    exported_to(tmp_path / "model", parts, ARCHITECTURES[1])
    assert open_exported(tmp_path / "model").model.fusion.architecture == ARCHITECTURES[1]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="is not empty and holds no exported model"):
        exported_to(tmp_path / "mine", parts, ARCHITECTURES[0])
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_folder_without_an_exported_model_is_named(project: Project, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no exported model"):
        open_exported(tmp_path)
    with pytest.raises(ExportError, match=r"model_type is 'vit'; expected 'multimodal_fusion'"):
        open_exported(project.root / "vit")


def test_model_card_shows_names_with_markup_as_they_are(parts: ModelParts, tmp_path: Path) -> None:
    names = (
        "<img src=x onerror=alert(1)>",
        "a | b\n# title\n---\n- item",
        "![x](http://example.org) `code` **bold** &lt; \x1b[31m{braces} \\",
    )
    exported_to(tmp_path / "model", replace(parts, class_names=names), ARCHITECTURES[0])
    describe(tmp_path / "model", {"trial": "1 | <b>2</b>"})
    card = (tmp_path / "model" / "README.md").read_text()
    tokens = MarkdownIt("commonmark").enable("table").parse(card.split("---\n", 2)[2])
    inline = [part for token in tokens for part in token.children or ()]
    assert {part.type for part in inline} <= {"text", "softbreak", "text_special"}
    assert [token.type for token in tokens].count("heading_open") == 1
    shown = ["".join(part.content for part in token.children or ()) for token in tokens if token.type == "inline"]
    assert f"Classes: {names[0]}, a | b # title --- - item, " + names[2].replace("\x1b", "\\x1b") + "." in shown
    assert shown[shown.index("trial") + 1] == "1 | <b>2</b>"
    assert open_exported(tmp_path / "model").class_names == names
