"""From base classes to novel ones: a model learns half of the classes and is tested on each half by its texts."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from nas.cli import main
from nas.common.errors import ArgumentError, ConfigError
from nas.common.progress import LineReporter
from nas.config.load import load_config
from nas.config.overrides import Overrides
from nas.models.classifier import FusionForClassification
from nas.run.comparison.compare import compare
from nas.run.comparison.protocol import Protocol, base_to_novel_entries, with_base_classes
from nas.run.comparison.report import Row, harmonic_means, write_report
from nas.run.evaluate import evaluate_exported
from nas.run.executors import ExecutionOptions
from tests.support.project import WORDS, Project

CLASSES = WORDS[:4]
NAMES = ("clip_zero_shot", "coop")


@pytest.fixture
def source(project: Project, tmp_path: Path) -> Path:
    """A search file of the small project with four classes, whose names are words of its tokenizer."""
    with project.manifest.open() as file:
        rows = list(csv.DictReader(file))
    manifest = tmp_path / "four.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "text", "label", "split"])
        writer.writeheader()
        splits = ("train", "train", "train", "validation", "test")
        for index, row in enumerate(rows):
            writer.writerow({**row, "label": CLASSES[index % 4], "split": splits[index // 4 % 5]})
    values = project.values(
        **{
            "data.manifest": str(manifest),
            "data.images": str(project.images),
            "encoders.image": str(project.root / "clip"),
            "encoders.text": str(project.root / "clip"),
            "space.fusion_layer": [0, 1],
            "recipe.epochs": 4,
            "compare": {"learning_rates": [1e-2], "note": "The pretraining has seen the novel classes."},
        }
    )
    path = tmp_path / "four.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def compared(source: Path, directory: Path, options: ExecutionOptions, names: Sequence[str] | None = None) -> str:
    stream = io.StringIO()
    compare(
        source,
        directory,
        names=names,
        seeds=2,
        overrides=Overrides(),
        options=options,
        reporter=LineReporter(stream),
        protocol=Protocol(is_base_to_novel=True),
    )
    return stream.getvalue()


def zero_shot_accuracy(source: Path, classes: Sequence[str]) -> float:
    """Return the accuracy of transformers' own CLIP on the test samples of some classes, among these."""
    config = load_config(source)
    checkpoint = config.encoders.image
    model = CLIPModel.from_pretrained(checkpoint).eval()
    tokens = AutoTokenizer.from_pretrained(checkpoint)(
        [f"a photo of a {name}" for name in classes], padding=True, return_tensors="pt"
    )
    assert config.data.manifest is not None and config.data.images is not None
    with Path(config.data.manifest).open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    chosen = [row for row in rows if row["label"] in classes]
    pictures = [Image.open(Path(config.data.images) / row["image"]).convert("RGB") for row in chosen]
    pixels = AutoImageProcessor.from_pretrained(checkpoint, use_fast=False)(pictures, return_tensors="pt")
    with torch.inference_mode():
        logits = model(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=pixels["pixel_values"],
        ).logits_per_image
    right = [classes[int(index)] == row["label"] for index, row in zip(logits.argmax(dim=1), chosen, strict=True)]
    assert len(right) == 3 * len(classes)
    return sum(right) / len(right)


@pytest.mark.slow
def test_models_learn_base_classes_and_classify_novel_ones_by_their_texts(
    source: Path, options: ExecutionOptions, tmp_path: Path
) -> None:
    directory = tmp_path / "comparison"
    output = compared(source, directory, options, NAMES)
    with (directory / "comparison.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert tuple(rows) == NAMES
    assert float(rows["clip_zero_shot"]["base_accuracy_seed0"]) == zero_shot_accuracy(source, CLASSES[:2])
    assert float(rows["clip_zero_shot"]["novel_accuracy_seed0"]) == zero_shot_accuracy(source, CLASSES[2:])
    data = load_config(source).data
    for seed in range(2):
        folders = [directory / "coop" / f"model_{novel}seed{seed}" for novel in ("", "novel_")]
        base, novel = (FusionForClassification.from_pretrained(folder) for folder in folders)
        assert tuple(base.config.id2label.values()) == CLASSES[:2], "only base classes were learned"
        assert tuple(novel.config.id2label.values()) == CLASSES[2:]
        learned = {name: tensor for name, tensor in base.state_dict().items() if "prompts" in name}
        assert learned and all(torch.equal(tensor, novel.state_dict()[name]) for name, tensor in learned.items())
        assert base.config.class_texts["ids"] != novel.config.class_texts["ids"]
        scores = []
        for half, folder in zip(("base", "novel"), folders, strict=True):
            found = evaluate_exported(folder, data.replace(classes=half), "test")
            assert found.num_samples == 6
            scores.append(found.metrics["accuracy"])
            assert float(rows["coop"][f"{half}_accuracy_seed{seed}"]) == scores[-1]
        (mean,) = harmonic_means(scores[:1], scores[1:])
        assert float(rows["coop"][f"harmonic_mean_accuracy_seed{seed}"]) == mean
    text = (directory / "comparison.md").read_text()
    for words in ("base accuracy", "novel accuracy", "harmonic mean", "Protocol base_to_novel", "has seen the novel"):
        assert words in text
    assert "data.classes: base: 2 of 4 classes are used" in output
    assert "on novel classes of test" in output
    again = compared(source, directory, options, NAMES)
    assert "evaluating" not in again and "validation accuracy" not in again.partition("\n\n")[0], "it resumes"


@pytest.mark.long
def test_deep_prompts_are_carried_to_the_novel_classes(source: Path, options: ExecutionOptions, tmp_path: Path) -> None:
    directory, names = tmp_path / "comparison", ("vpt_clip", "maple")
    compared(source, directory, options, names)
    with (directory / "comparison.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert tuple(rows) == names
    data = load_config(source).data
    for name, learned_in in (("vpt_clip", "image_prompts"), ("maple", "text_prompts")):
        folders = [directory / name / f"model_{novel}seed0" for novel in ("", "novel_")]
        base, novel = (FusionForClassification.from_pretrained(folder) for folder in folders)
        learned = {key: tensor for key, tensor in base.state_dict().items() if "prompts" in key or "coupling" in key}
        assert any(learned_in in key for key in learned)
        assert all(torch.equal(tensor, novel.state_dict()[key]) for key, tensor in learned.items())
        assert base.config.class_texts["ids"] != novel.config.class_texts["ids"]
        for half, folder in zip(("base", "novel"), folders, strict=True):
            accuracy = evaluate_exported(folder, data.replace(classes=half), "test").metrics["accuracy"]
            assert float(rows[name][f"{half}_accuracy_seed0"]) == accuracy


def test_families_without_class_texts_are_refused_by_name(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    able = base_to_novel_entries(None)
    assert able[:2] == NAMES and "pmf" not in able and base_to_novel_entries(NAMES[:1]) == NAMES[:1]
    message = f"linear, pmf_searched cannot classify classes without training samples; expected .*{', '.join(able)}"
    with pytest.raises(ArgumentError, match=message):
        base_to_novel_entries(["linear", "coop", "pmf_searched"])
    arguments = ["compare", str(source), "--protocol", "base_to_novel", "--families", "mbt"]
    assert main(arguments) == 2 and "--protocol base_to_novel: mbt cannot" in capsys.readouterr().err


def test_training_is_on_base_classes_and_a_file_that_chooses_classes_is_refused(source: Path) -> None:
    config = load_config(source)
    assert with_base_classes(config, source).data.classes == "base"
    with pytest.raises(ConfigError, match=r"data\.classes: not allowed with this protocol"):
        with_base_classes(config.replace(data=config.data.replace(classes="novel")), source)


def test_table_has_the_harmonic_mean_of_each_seed(tmp_path: Path) -> None:
    base, novel = ({"accuracy": 0.8}, {"accuracy": 0.6}), ({"accuracy": 0.4}, {"accuracy": 0.3})
    row = Row("coop", "CoOp", False, "", 1e-3, 8, 2**20, None, base, base, 1.0, "", novel)
    assert row.shown_on_test("accuracy") == pytest.approx([2 / (1 / 0.8 + 1 / 0.4), 0.4])
    assert harmonic_means([0.0, None, 0.5], [0.0, 0.5, None]) == [0.0, None, None]
    stream = io.StringIO()
    write_report(tmp_path, [row], metric="accuracy", seeds=2, reporter=LineReporter(stream), note="Mind this.")
    text = (tmp_path / "comparison.txt").read_text()
    assert "0.700 ± 0.141" in text and "0.350 ± 0.071" in text and "0.467 ± 0.094" in text and "Mind this." in text
    with (tmp_path / "comparison.csv").open() as file:
        (found,) = csv.DictReader(file)
    assert [found[f"{name}_accuracy_seed1"] for name in ("base", "novel")] == ["0.6", "0.3"]
    assert float(found["harmonic_mean_accuracy_seed1"]) == pytest.approx(0.4)
    assert "harmonic mean of base and novel accuracy" in (tmp_path / "comparison.svg").read_text()
