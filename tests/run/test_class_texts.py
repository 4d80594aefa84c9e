"""Searches of families that compare images with the texts of the classes."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import nas
from nas.cli import main
from nas.common.errors import ConfigError, EncoderError, ExportError
from nas.common.progress import LineReporter
from nas.config.load import load_config
from nas.data.inputs import Input
from nas.data.preprocessing import Preprocessor
from nas.models.class_texts import ClassTexts
from nas.models.classifier import FusionForClassification
from nas.models.encoders.checkpoints import build_encoder
from nas.models.fusion.base import sizes_of
from nas.models.fusion.coop.architecture import CoOpArchitecture
from nas.models.fusion.supernet import build_model
from nas.run.comparison.entries import entry_names, fitting_entries
from nas.run.executors import ExecutionOptions
from nas.run.export import assemble
from nas.run.exported_checks import check_class_texts
from nas.run.exported_model import ExportedModel
from nas.run.model_parts import ModelParts
from nas.run.sources import check_encoders
from nas.search.space.family_registry import load_architecture_class
from tests.support.project import Project
from tests.support.runs import results_of, resume_search, run_search
from tests.support.tiny_families import clip_model

CLIP = {"encoders.image": "./clip", "encoders.text": "./clip"}
COOP = {**CLIP, "family": "coop", "space": {"prompt_length": [1, 4], "sample_text": ["none", "sum"]}}
NAMES = ("blue", "green", "red")


def parts_of(project: Project, name: str, **changes: object) -> ModelParts:
    return ModelParts.load(load_config(project.write(name, **{**COOP, **changes})), NAMES)


def test_texts_are_those_of_the_classes(project: Project) -> None:
    texts = parts_of(project, "texts.yaml", **{"data.class_prompts": ["egg {}", "{} egg egg"]}).class_texts
    assert isinstance(texts, ClassTexts) and texts.prefixes == (1, 0)
    assert texts.ids.shape == (2, 3, 5) and texts.mask.sum(dim=2).tolist() == [[4] * 3, [5] * 3]
    assert parts_of(project, "pmf.yaml", **{"family": "linear", "space": {}}).class_texts is None


def test_texts_that_are_too_long_are_an_error(project: Project) -> None:
    with pytest.raises(ConfigError, match=r"data.class_prompts: too long; expected at most 20 .* 23 tokens in 'egg"):
        parts_of(project, "long.yaml", **{"data.class_prompts": "egg " * 20 + "{}"})
    message = r"data.class_prompts: too long with the learned words .* at most 20 tokens .*, got 21 of 6"
    with pytest.raises(ConfigError, match=message):
        parts_of(project, "longer.yaml", **{"space": {"prompt_length": [1, 18]}, "data.class_prompts": "a a a {}"})


def test_encoders_without_a_common_space_are_an_error(project: Project) -> None:
    folder = project.root / "other_clip"
    other = clip_model(vocabulary=11, end=3)
    with torch.no_grad():
        other.logit_scale.add_(1.0)
    other.save_pretrained(folder)
    for encoders, message in (
        ({"encoders.image": "./other_clip"}, "encoders: no common space; expected the same contrastive checkpoint"),
        (
            {"encoders.image": "./vit"},
            "vit': has no projections into a space of images and texts; expected",
        ),
    ):
        source = project.write("spaces.yaml", **{**COOP, **encoders})
        with pytest.raises(EncoderError, match=message):
            check_encoders(load_config(source), source=str(source))


def test_comparison_leaves_out_what_the_encoders_do_not_fit(project: Project) -> None:
    stream = io.StringIO()
    found = fitting_entries(load_config(project.write("clip.yaml", **CLIP)), LineReporter(stream))
    assert found == entry_names() and stream.getvalue() == ""
    found = fitting_entries(load_config(project.root / "search.yaml"), LineReporter(stream))
    left_out = [name for name in entry_names() if name not in found]
    assert left_out[:2] == ["clip_zero_shot", "coop"] and "pmf_searched" in found
    assert f"because they need one contrastive checkpoint as both encoders: {', '.join(left_out)}" in stream.getvalue()


def searched(project: Project, options: ExecutionOptions, run: Path) -> int:
    """Search learned words, resume the search, and return the number of a candidate that was trained completely."""
    prompts = {"data.class_prompts": ["egg dog {}", "a {}"]}
    run_search(project.write("coop.yaml", **COOP, **prompts, **{"budget.trials": 2}), run, options)
    resume_search(run, options, trials=4)
    results = results_of(run)
    assert len(results["one_shot"]) == 4 and results["short"]
    return max(result.trial for result in results["full"])


@pytest.mark.slow
def test_learned_words_are_searched_exported_and_evaluated(
    project: Project, options: ExecutionOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    trial = searched(project, options, run)
    assert main(["export", str(run), "--output", str(model), "--trial", str(trial)]) == 0
    loaded, whole = nas.load(model, device="cpu"), FusionForClassification.from_pretrained(model)
    assert whole.config.class_texts["prefixes"] == [2, 1] and len(whole.config.class_texts["ids"][0]) == len(NAMES)
    pictures = [project.images / f"{index:03}.png" for index in range(6)]
    found = loaded.predict_proba(pictures, ["cat"] * 6)
    pixels = loaded.preprocessor.pixel_values([Image.open(path).convert("RGB") for path in pictures])
    ids, mask = loaded.preprocessor.tokenize(["cat"] * 6)
    expected = whole(pixels, ids, mask).logits.softmax(dim=1).detach()
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-6)
    assert main(["evaluate", str(model), "--data", str(project.manifest), "--images", str(project.images)]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("family", ["clip_zero_shot", "coop", "vpt_clip", "maple"])
def test_class_texts_of_a_loaded_model_are_computed_once_for_all_batches(
    project: Project, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    parts = parts_of(project, "counted.yaml", family=family, space="auto")
    architecture_class = load_architecture_class(family)
    encoders = parts.image_encoder, parts.text_encoder
    trained = build_model(
        image_encoder=encoders[0],
        text_encoder=encoders[1],
        architecture=architecture_class.default(sizes_of(*encoders)),
        num_classes=len(NAMES),
        seed=3,
        class_texts=parts.class_texts,
    )
    model: Any = assemble(
        image_encoder=encoders[0],
        text_encoder=encoders[1],
        trained=trained,
        class_names=NAMES,
        max_text_tokens=parts.max_text_tokens,
    )
    preprocessor = Preprocessor(
        image_processor=parts.image_processor, tokenizer=parts.tokenizer, max_text_tokens=parts.max_text_tokens
    )
    exported = ExportedModel(model, preprocessor, NAMES)
    computed, compute = [], model.fusion.class_embeddings

    def counted(*arguments: Any) -> Any:
        computed.append(arguments)
        return compute(*arguments)

    monkeypatch.setattr(model.fusion, "class_embeddings", counted)
    pictures, texts = [project.images / f"{index:03}.png" for index in range(5)], ["cat"] * 5
    inputs = [Input(index, str(path), text) for index, (path, text) in enumerate(zip(pictures, texts, strict=True))]
    outcomes = exported.outcomes(inputs, lambda name: Image.open(name).convert("RGB"), 2)
    found = [outcome.values for outcome in outcomes if outcome.values is not None]
    assert len(computed) == 1 and len(found) == 5, "three batches"
    exported.logits(pictures[:2], texts[:2])
    assert len(computed) == 1, "and a further call"
    pixels = exported.preprocessor.pixel_values([Image.open(path).convert("RGB") for path in pictures])
    ids, mask = exported.preprocessor.tokenize(texts)
    expected = model.train()(pixels, ids, mask).logits  # with gradients, as a training computes
    assert len(computed) == (1 if family == "clip_zero_shot" else 2), "nothing to train, or whole layers"
    torch.testing.assert_close(torch.stack(found), expected.detach(), rtol=0, atol=1e-4)


@pytest.mark.long
def test_learned_words_are_exported_as_onnx_and_compared(
    project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    trial = searched(project, options, run)
    assert main(["export", str(run), "--output", str(model), "--trial", str(trial), "--format", "onnx"]) == 0
    assert (model / "model.onnx").exists()
    changes = {**CLIP, "compare": {"learning_rates": [1e-2]}, "recipe.epochs": 1, "space.fusion_layer": [0, 1]}
    compared = project.write("compared.yaml", **changes)
    given = ["--families", "clip_zero_shot", "coop", "--seeds", "1", "--workers", "0"]
    assert main(["compare", str(compared), *given, "--run-dir", str(tmp_path / "comparison")]) == 0
    table = (tmp_path / "comparison" / "comparison.csv").read_text()
    assert "clip_zero_shot" in table and "coop" in table


IDS = [[[2, 5, 3], [2, 6, 3], [2, 7, 3]]]


@pytest.mark.parametrize(
    ("values", "key"),
    [
        (None, "ids"),
        ([], "ids"),
        ({"ids": IDS, "prefixes": None}, "prefixes"),
        ({"ids": [], "prefixes": []}, "ids"),
        ({"ids": [IDS[0][:2]], "prefixes": [0]}, "ids"),
        ({"ids": [[[2, 5, 3], [2, 3], [2]]], "prefixes": [0]}, "ids"),
        ({"ids": [[[2, 5, 3], [2, 3], [2, 11]]], "prefixes": [0]}, "ids"),
        ({"ids": [[[2, 5, 3], [2, 3], [2, True]]], "prefixes": [0]}, "ids"),
        ({"ids": [[[2, 5, 3], [2, 3], [2] * 21]], "prefixes": [0]}, "ids"),
        ({"ids": IDS, "prefixes": [0, 0]}, "prefixes"),
        ({"ids": IDS, "prefixes": [3]}, "prefixes"),
        ({"ids": IDS, "prefixes": [-1]}, "prefixes"),
    ],
)
def test_texts_of_an_exported_model_that_are_not_allowed_are_named(values: object, key: str, tmp_path: Path) -> None:
    text_config: Any = clip_model(vocabulary=11, end=3).config.text_config
    path, text = tmp_path / "config.json", build_encoder(text_config)
    config: dict[str, Any] = {"id2label": {"0": "a", "1": "b", "2": "c"}, "class_texts": values}
    config["architecture"] = CoOpArchitecture(4).as_dict()
    with pytest.raises(ExportError, match=rf"config.json: class_texts\.{key}: not allowed; expected"):
        check_class_texts(path, config, text)
    check_class_texts(path, {**config, "class_texts": {"ids": IDS, "prefixes": [1]}}, text)
    check_class_texts(path, {**config, "class_texts": None, "architecture": {"family": "linear"}}, text)
