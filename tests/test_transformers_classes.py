"""Exported models through transformers' own functions: auto classes, pipeline and Trainer."""

import stat
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoProcessor,
    Trainer,
    TrainingArguments,
    pipeline,
)

import nas
from nas.config.load import load_config
from nas.models.classifier import MULTI_LABEL
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.export import assemble_ensemble, export
from nas.run.loaded_model import LoadedModel
from nas.run.model_parts import ModelParts
from nas.transformers_classes import FusionConfig, FusionForClassification, FusionPipeline, FusionProcessor
from tests.run.test_export import ARCHITECTURES, trained
from tests.support.project import COLOURS, Project

NAMES = tuple(sorted(COLOURS))


def export_members(folder: Path, project: Project, count: int, threshold: float | None = None) -> Path:
    parts = ModelParts.load(load_config(project.root / "search.yaml"), NAMES)
    architectures = [ARCHITECTURES[0], PMFArchitecture(0, 1, 1, 1, 4)][:count]
    model = assemble_ensemble(
        [(trained(parts, architecture), 1 / count) for architecture in architectures],
        image_encoder=parts.image_encoder,
        text_encoder=parts.text_encoder,
        class_names=NAMES,
        max_text_tokens=parts.max_text_tokens,
        threshold=threshold,
    )
    export(folder, model=model, image_processor=parts.image_processor, tokenizer=parts.tokenizer, facts={})
    return folder


@pytest.fixture(scope="module")
def folder(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_members(tmp_path_factory.mktemp("transformers") / "model", project, 1)


@pytest.fixture(scope="module")
def inputs(project: Project) -> list[dict[str, Any]]:
    names = ["000.png", "001.png", "005.png"]
    texts = ["apple boat", "cat", "dog egg fox apple boat cat"]
    return [{"image": project.images / name, "text": text} for name, text in zip(names, texts, strict=True)]


def scores_of(loaded: LoadedModel, inputs: list[dict[str, Any]]) -> Any:
    return loaded.predict_proba([entry["image"] for entry in inputs], [entry["text"] for entry in inputs])


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.long)], ids=["single", "ensemble"])
def test_auto_classes_and_pipeline_give_the_predictions_of_the_loaded_model(
    project: Project, inputs: list[dict[str, Any]], tmp_path: Path, count: int
) -> None:
    folder = export_members(tmp_path / "model", project, count)
    expected = scores_of(nas.load(folder, device="cpu"), inputs)
    assert type(AutoConfig.from_pretrained(folder)) is FusionConfig
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor) is FusionProcessor
    batch = processor(images=[entry["image"] for entry in inputs], text=[entry["text"] for entry in inputs])
    for auto_class in (AutoModelForSequenceClassification, AutoModel):
        model = auto_class.from_pretrained(folder)
        assert type(model) is FusionForClassification
        with torch.inference_mode():
            scores = model(**batch).logits.softmax(dim=1).numpy()
        assert scores == pytest.approx(expected, abs=1e-6)
    classify: Any = pipeline("multimodal-classification", model=str(folder), device="cpu")  # type: ignore[call-overload]
    assert type(classify) is FusionPipeline
    for batch_size in (1, 2):
        found = classify(inputs, batch_size=batch_size)
        for answer, row in zip(found, expected, strict=True):
            assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(
                dict(zip(NAMES, row, strict=True)), abs=1e-6
            )
            assert [entry["score"] for entry in answer] == sorted((entry["score"] for entry in answer), reverse=True)
    best = classify(inputs[0]["image"], text=inputs[0]["text"], top_k=1)
    assert [entry["label"] for entry in best] == [found[0][0]["label"]]
    assert best[0]["score"] == pytest.approx(found[0][0]["score"], abs=1e-6)
    pictures, texts = ([entry[key] for entry in inputs] for key in ("image", "text"))
    assert [len(answer) for answer in classify(pictures, text=texts, top_k=2)] == [2, 2, 2]


def test_pipeline_of_a_model_with_several_labels_gives_the_probability_of_each(
    project: Project, inputs: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = export_members(tmp_path / "model", project, 1, threshold=0.4)
    loaded = nas.load(folder, device="cpu")
    assert loaded.model.config.problem_type == MULTI_LABEL
    classify: Any = pipeline("multimodal-classification", model=str(folder), device="cpu")  # type: ignore[call-overload]
    found = {entry["label"]: entry["score"] for entry in classify(inputs[0])}
    assert found == pytest.approx(dict(zip(NAMES, scores_of(loaded, inputs)[0], strict=True)), abs=1e-6)


def test_saved_pipeline_is_an_exported_model_without_code(
    folder: Path, inputs: list[dict[str, Any]], tmp_path: Path
) -> None:
    classify: Any = pipeline("multimodal-classification", model=str(folder), device="cpu")  # type: ignore[call-overload]
    classify.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*.py"))
    assert (scores_of(nas.load(tmp_path / "saved", device="cpu"), inputs) == scores_of(nas.load(folder), inputs)).all()


def test_wrong_inputs_of_the_pipeline_are_errors(folder: Path) -> None:
    classify: Any = pipeline("multimodal-classification", model=str(folder), device="cpu")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="expected a mapping with image and text"):
        classify("a.png")
    with pytest.raises(ValueError, match="text: wrong number; expected one for each picture, got 2"):
        classify(["a.png"], text=["one", "two"])
    with pytest.raises(TypeError, match="size: unknown option; expected top_k"):
        classify({"image": "a.png", "text": "one"}, size=3)


def test_names_of_the_package_register_the_classes() -> None:
    assert {nas._TARGETS[name].partition(":")[0] for name in ("load", "FusionConfig", "FusionForClassification")} == {
        "nas.transformers_classes"
    }


def test_files_of_a_model_are_readable_by_others_and_hold_no_pickles(folder: Path) -> None:
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path.name
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "architecture.yaml", "checksums.json", "config.json", "model.safetensors"),
        *("preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"),
    }


def test_additional_outputs_of_a_tokenizer_are_ignored(folder: Path, inputs: list[dict[str, Any]]) -> None:
    model, processor = FusionForClassification.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    batch = processor(images=[entry["image"] for entry in inputs], text=[entry["text"] for entry in inputs])
    plain = processor.tokenizer(
        [entry["text"] for entry in inputs],
        padding=True,
        truncation=True,
        return_tensors="pt",
        return_token_type_ids=True,
    )
    assert "token_type_ids" in plain
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, model(pixel_values=batch["pixel_values"], **plain).logits)


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.long)], ids=["single", "ensemble"])
def test_trainer_continues_the_training_and_its_folder_is_an_exported_model(
    project: Project, tmp_path: Path, count: int
) -> None:
    folder = export_members(tmp_path / "model", project, count)
    model, processor = AutoModelForSequenceClassification.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = [
        {"image": Image.new("RGB", (20, 20), COLOURS[name]), "text": text, "label": index}
        for index, name in enumerate(NAMES)
        for text in ("apple", "boat cat", "dog")
    ]

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        made = processor(images=[row["image"] for row in batch], text=[row["text"] for row in batch])
        return {**made, "labels": torch.tensor([row["label"] for row in batch])}

    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=12,
        per_device_train_batch_size=9,
        learning_rate=0.02,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=collate, processing_class=processor
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 12 and losses[-1] < 0.7 * losses[0]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert changed and changed <= trainable
    assert all(name.startswith(("fusion.", "further_members.")) for name in trainable)
    trainer.save_model(str(tmp_path / "tuned"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = nas.load(tmp_path / "tuned", device="cpu")
    pictures, texts = [row["image"] for row in rows], [str(row["text"]) for row in rows]
    with torch.inference_mode():
        expected = model.eval()(**processor(images=pictures, text=texts)).logits.softmax(dim=1)
    assert loaded.predict_proba(pictures, texts) == pytest.approx(expected.numpy(), abs=1e-6)
