"""Opening an exported model: every file of its folder is checked, and pictures of any kind are classified."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from nas.cli import main
from nas.common.errors import DataError, EncoderError, ExportError, NasError
from nas.common.seals import SEALS
from nas.config.load import load_config
from nas.run.exported_model import ExportedModel, exported_form, open_exported
from nas.run.model_parts import ModelParts
from tests.run.test_export import ARCHITECTURES, exported_to
from tests.support.project import Project


@pytest.fixture(scope="module")
def original(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model that tests must not change."""
    parts = ModelParts.load(load_config(project.root / "search.yaml"), ("blue", "green", "red"))
    folder = tmp_path_factory.mktemp("exported") / "model"
    exported_to(folder, parts, ARCHITECTURES[0])
    return folder


@pytest.fixture(scope="module")
def exported(original: Path) -> ExportedModel:
    return open_exported(original)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def reopen(folder: Path) -> ExportedModel:
    """Open a folder in spite of its changes."""
    return open_exported(folder, accept_changed=True, on_note=lambda note: None)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, function: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    function(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"architecture": 5}, "architecture"),
        ({"architecture": {"family": "none"}}, "architecture"),
        ({"architecture": {"family": "pmf", "fusion_layer": 1}}, "architecture"),
        ({"architecture": {"family": "linear", "more": 1}}, "architecture"),
        ({"architecture": {"family": "mbt", "fusion_layer": -1}}, "architecture.fusion_layer"),
        ({"architecture": {"family": "pmf", "mapping_width": 10**19}}, "architecture.mapping_width"),
        ({"image_config": [1]}, "image_config"),
        ({"image_config": {"model_type": "bert"}}, "image_config"),
        ({"image_config": {"model_type": "vit", "hidden_size": -24}}, "image_config: hidden_size"),
        ({"text_config": {"model_type": "none"}}, "text_config"),
        ({"text_config": {"model_type": "bert", "num_hidden_layers": 10**6}}, "text_config: num_hidden_layers"),
        ({"text_config": {"model_type": "bert", "num_attention_heads": 5}}, "text_config"),
        ({"id2label": 5}, "id2label"),
        ({"id2label": {}}, "id2label"),
        ({"id2label": {"0": "blue", "2": "red"}}, r"id2label\.1"),
        ({"id2label": {"0": "blue", "1": "blue", "2": "red"}}, "id2label"),
        ({"id2label": {"0": "blue", "1": 7, "2": "red"}}, "id2label"),
        ({"label2id": {"blue": 2, "green": 1, "red": 0}}, "label2id"),
        ({"problem_type": "regression"}, "problem_type"),
        ({"max_text_tokens": "x"}, "max_text_tokens"),
        ({"max_text_tokens": -5}, "max_text_tokens"),
        ({"max_text_tokens": 21}, "max_text_tokens"),
        ({"max_text_tokens": 10**400}, "max_text_tokens"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": None}, "threshold"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_value_of_the_configuration_that_is_not_allowed_is_named(
    changes: dict[str, Any], key: str, folder: Path
) -> None:
    change(folder / "config.json", **changes)
    with pytest.raises(ExportError, match=rf"/config\.json: {key}: .*; expected .*") as raised:
        reopen(folder)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000


@pytest.mark.parametrize("text", ["[]", "{", "5", "", "\ufeff{}", "[" * 100_000])
def test_configuration_of_another_shape_is_one_error(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ExportError, match=r"model(/config\.json)?: (is|begins|cannot|model_type)"):
        reopen(folder)


def test_fusion_layer_that_the_encoders_lack_is_named(folder: Path) -> None:
    architecture = json.loads((folder / "config.json").read_text())["architecture"]
    change(folder / "config.json", architecture=architecture | {"fusion_layer": 7})
    with pytest.raises(
        ExportError, match=r"config\.json: no model can be built of it: fusion_layer.* expected 0 to 2, got 7"
    ):
        reopen(folder)


def test_configuration_of_a_much_larger_model_takes_no_memory(folder: Path) -> None:
    architecture = json.loads((folder / "config.json").read_text())["architecture"]
    change(folder / "config.json", architecture=architecture | {"mapping_width": 65_000})
    with pytest.raises(ExportError, match=r"config\.json: describes a model of .* weights; expected the config"):
        reopen(folder)


def drop(weights: dict[str, torch.Tensor]) -> None:
    del weights[min(name for name in weights if name.startswith("fusion."))]


def add(weights: dict[str, torch.Tensor]) -> None:
    weights["fusion.more"] = torch.zeros(2)


def resize(weights: dict[str, torch.Tensor]) -> None:
    name = max(name for name in weights if name.endswith("bias"))
    weights[name] = torch.zeros(len(weights[name]) + 1)


def spoil(weights: dict[str, torch.Tensor]) -> None:
    weights[max(weights)].view(-1)[0] = float("nan")


def scale(weights: dict[str, torch.Tensor]) -> None:
    weights[max(weights)] *= 1.5


def quantize(weights: dict[str, torch.Tensor]) -> None:
    weights[max(weights)] = weights[max(weights)].to(torch.int8)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (drop, r"1 weights are missing, fusion\..* among them; expected exactly those that config.json describes"),
        (add, r"1 weights belong to another model, fusion\.more among them"),
        (resize, r"wrong size; expected \[\d+\], as config.json says, got \[\d+\]"),
        (spoil, r"weight .* is not finite; expected finite numbers only, got (nan|-?inf)"),
        (quantize, r"has the dtype I8, not one of F64"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    function: Callable[[dict[str, torch.Tensor]], None], message: str, folder: Path
) -> None:
    change_weights(folder, function)
    with pytest.raises(ExportError, match=rf"/model\.safetensors: .*{message}"):
        reopen(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "pointer"])
def test_damaged_file_is_named(name: str, damage: str, folder: Path) -> None:
    path = folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
        (folder / "tokenizer_config.json").unlink()
    else:
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "pointer": pointer}[damage])
    with pytest.raises(ExportError, match=name.partition(".")[0]):
        reopen(folder)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("preprocessor_config.json", {"size": {"height": -1, "width": 16}}, r"size\.height: not allowed"),
        ("preprocessor_config.json", {"size": {"height": 24, "width": 24}}, r"yields images of 3 x 24 x 24, which the"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "image_mean: not allowed; expected 3 finite numbers"),
        ("config.json", {"max_text_tokens": 1}, "tokenizer adds 2 special tokens to every text"),
    ],
)
def test_side_file_that_does_not_fit_the_model_is_named(
    file: str, values: dict[str, Any], message: str, folder: Path
) -> None:
    change(folder / file, **values)
    with pytest.raises(ExportError, match=message):
        reopen(folder)


def test_token_that_the_model_has_no_embedding_for_is_named(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    values = json.loads(text)
    values["model"]["vocab"]["zebra"] = 1000
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(ExportError, match=r"tokenizer\.json: .*token ids 0 to 1000; expected 0 to 49"):
        reopen(folder)


@pytest.mark.parametrize(
    "data", ["{}", "[]", "5", "{reader: none}", "{reader: manifest, columns: 5}", "{reader: manifest, labels: 7}"]
)
def test_damaged_form_of_the_data_is_one_error(data: str, folder: Path) -> None:
    (folder / "architecture.yaml").write_text(f"data: {data}")
    with pytest.raises(NasError, match=r"architecture\.yaml: (the form of the training data cannot be read|1 problem)"):
        exported_form(folder)


def test_folder_of_another_model_is_named(project: Project, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no exported model"):
        open_exported(tmp_path)
    with pytest.raises(ExportError, match="holds no exported model"):
        open_exported(tmp_path / "missing")
    with pytest.raises(ExportError, match=r"model_type is 'vit'; expected 'multimodal_fusion'"):
        open_exported(project.root / "vit")


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"]
)
def test_planted_code_of_a_model_folder_is_not_run(
    file: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    witness = tmp_path / "witness"
    (folder / "planted.py").write_text(f"open({str(witness)!r}, 'w')\nclass Planted: ...\n")
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    code = {"AutoConfig": "planted.Planted", "AutoImageProcessor": "planted.Planted"}
    change(folder / file, auto_map=code | {"AutoTokenizer": ["planted.Planted", None]})
    image = tmp_path / "a.png"
    Image.new("RGB", (20, 20)).save(image)
    with pytest.raises(ExportError, match=rf"{file}: auto_map: custom code is never run"):
        reopen(folder)
    assert main(["predict", str(folder), "--image", str(image), "--text", "cat", "--accept-changed"]) == 2
    assert not witness.exists()


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "architecture.yaml",
    ],
)
def test_predict_refuses_a_changed_file_unless_it_is_accepted(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (20, 20), (200, 10, 10)).save(image)
    words = ["predict", str(folder), "--image", str(image), "--text", "cat"]
    assert main(words) == 0
    assert capsys.readouterr().err == ""
    if name == "model.safetensors":
        change_weights(folder, scale)
    elif name == "tokenizer.json":
        (folder / name).write_text((folder / name).read_text().replace('"cat"', '"cot"'))
    elif name == "architecture.yaml":
        (folder / name).write_text((folder / name).read_text() + "more: 1\n")
    else:
        change(folder / name, image_std=[0.25, 0.5, 0.5])
    assert main(words) == 2
    message = capsys.readouterr().err
    assert f"changed after the model was saved: {name} changed; expected" in message and "--accept-changed" in message
    assert main([*words, "--accept-changed"]) == 0
    streams = capsys.readouterr()
    assert f"warning: {folder}: changed after the model was saved: {name} changed" in streams.err
    assert "blue: 0." in streams.out


def test_model_card_may_be_edited_and_missing_checksums_are_noted(folder: Path) -> None:
    notes: list[str] = []
    (folder / "README.md").write_text("# Mine")
    (folder / ".gitattributes").write_text("")
    (folder / "notes.txt").write_text("")
    open_exported(folder, on_note=notes.append)
    (folder / SEALS).unlink()
    open_exported(folder, on_note=notes.append)
    assert [note.partition(": ")[2][:35] for note in notes] == [
        "changed after the model was saved: ",
        "has no checksums, so changed files ",
    ]
    with pytest.warns(UserWarning, match="has no checksums"):
        open_exported(folder)


def test_checksums_of_no_file_are_a_change(folder: Path) -> None:
    (folder / SEALS).write_text('{"format": 1, "files": {}}')
    with pytest.raises(ExportError, match=r"changed after the model was saved: config\.json, model\.safetensors added"):
        open_exported(folder)


@pytest.mark.parametrize("options", [{"return_dict": False}, {"output_hidden_states": True}])
def test_outputs_that_the_configuration_asks_for_change_no_prediction(
    options: dict[str, bool], folder: Path, exported: ExportedModel
) -> None:
    change(folder / "config.json", **options)
    image = Image.new("RGB", (20, 20), (200, 10, 10))
    assert reopen(folder).predict([image], ["cat"]) == exported.predict([image], ["cat"])


def test_exported_folder_names_no_folder_of_the_exporter(original: Path, project: Project) -> None:
    for path in original.iterdir():
        content = path.read_bytes()
        assert str(project.root).encode() not in content and str(original.parent).encode() not in content, path


def test_exported_files_can_be_read_by_others(original: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in original.iterdir()}
    assert len(set(modes.values())) == 1, modes


def pictures() -> dict[str, Image.Image]:
    colour = Image.new("RGB", (30, 20), (200, 120, 40))
    clear = Image.new("RGBA", (30, 20), (200, 120, 40, 255))
    clear.putpixel((0, 0), (0, 0, 0, 0))
    palette = colour.convert("P", palette=Image.Palette.ADAPTIVE)
    grey = np.full((20, 30), 120, dtype=np.uint8)
    return {
        "RGB": colour,
        "RGBA": clear,
        "P": palette,
        "L": Image.fromarray(grey),
        "LA": Image.fromarray(grey).convert("LA"),
        "1": Image.fromarray(grey).convert("1"),
        "CMYK": colour.convert("CMYK"),
        "I;16": Image.fromarray(grey.astype(np.uint16) * 257),
    }


@pytest.mark.parametrize("mode", pictures())
def test_pictures_of_every_mode_are_classified_like_their_files(
    mode: str, exported: ExportedModel, tmp_path: Path
) -> None:
    picture = pictures()[mode]
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.save(path)
    before = picture.tobytes()
    [held], [read], [named] = (exported.predict([source], ["cat"]) for source in (picture, path, str(path)))
    assert held == read == named
    assert sum(prediction.probability for prediction in held) == pytest.approx(1)
    assert [p.probability for p in held] == sorted((p.probability for p in held), reverse=True)
    assert picture.tobytes() == before and picture.mode == mode


def test_many_samples_give_the_results_of_each_alone(exported: ExportedModel) -> None:
    images = [Image.new("RGB", (20, 20), (index * 5, 100, 50)) for index in range(40)]
    together = exported.predict(images, ["cat dog"] * 40)
    assert len(together) == 40
    alone = exported.predict(images[37:38], ["cat dog"])[0]
    assert [p.probability for p in together[37]] == pytest.approx([p.probability for p in alone], abs=1e-6)


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        ("a.png", ["cat"], "images: not a list"),
        ([Image.new("RGB", (4, 4))], "cat", "texts: not a list"),
        ([], [], "images: not a list"),
        ([Image.new("RGB", (4, 4))], ["cat", "dog"], "texts: wrong number; expected 1, one for each image, got 2"),
        ([5], ["cat"], r"images\[0\]: not a picture; expected a picture of PIL, an array of uint8 .*, got 5"),
        (["/missing/a.png"], ["cat"], "missing"),
        ([Image.new("F", (4, 4))], ["cat"], r"images\[0\].*floating-point"),
        ([Image.new("RGB", (4, 4))], [None], r"texts\[0\]: not allowed; expected text, got None"),
    ],
)
def test_samples_that_cannot_be_classified_are_named(
    images: Any, texts: Any, message: str, exported: ExportedModel
) -> None:
    with pytest.raises(DataError, match=message):
        exported.predict(images, texts)


def test_text_without_tokens_is_named_and_empty_texts_are_classified(exported: ExportedModel, folder: Path) -> None:
    image = Image.new("RGB", (20, 20))
    assert exported.predict([image], [""])[0]
    values = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(values | {"post_processor": None}))
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    plain = reopen(folder)
    assert plain.predict([image], ["cat"])[0]
    with pytest.raises(
        DataError, match=r"texts\[1\]: '' has no tokens; expected .* tokenizer .*model, which adds none"
    ):
        plain.predict([image, image], ["cat", ""])


def test_tokenizer_and_image_processor_that_fail_on_an_input_are_named(folder: Path) -> None:
    change(folder / "tokenizer_config.json", unk_token="[NOTHING]")
    changed = reopen(folder)
    image = Image.new("RGB", (20, 20))
    assert changed.predict([image], ["cat"])[0]
    with pytest.raises(
        EncoderError, match=r"model: tokenizer: cannot tokenize texts: .*; expected a complete tokenizer"
    ):
        changed.predict([image], ["\u2603"])
    changed.preprocessor.image_processor.image_std = [0.5] * 7
    with pytest.raises(EncoderError, match=r"preprocessor_config\.json: cannot process images: .*; expected settings"):
        changed.predict([image], ["cat"])


def test_pictures_may_have_as_many_pixels_as_those_of_the_training(folder: Path, tmp_path: Path) -> None:
    description = {"data": {"reader": "manifest", "max_pixels": 100}}
    (folder / "architecture.yaml").write_text(yaml.safe_dump(description))
    limited = reopen(folder)
    small, large = Image.new("RGB", (10, 10)), Image.new("RGB", (10, 11))
    large.save(tmp_path / "large.png")
    assert limited.predict([small], ["cat"])[0]
    for picture in (large, tmp_path / "large.png"):
        with pytest.raises(DataError, match=r"expected at most 100 pixels \(data\.max_pixels\), got 10 x 11"):
            limited.predict([picture], ["cat"])
