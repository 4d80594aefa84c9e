"""Exported models as ONNX and as programs of torch.export: the same numbers as the model, for any batch."""

import importlib.util
import json
import math
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

import nas
from nas.cli import main
from nas.common.errors import ExportError
from nas.config.choices import EXPORT_FORMATS
from nas.config.load import load_config
from nas.models.classifier import FusionForClassification
from nas.models.encoders.bert import BertEncoder
from nas.models.encoders.dinov2 import Dinov2Encoder
from nas.models.encoders.vit import ViTEncoder
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.supernet import build_model
from nas.run.export import assemble_ensemble, export
from nas.run.export_formats.add import add_formats, largest_difference
from nas.run.export_formats.formats import FORMATS, check_packages
from nas.run.export_formats.graph import InputBatch, LogitsModel, trace
from nas.run.export_formats.samples import CheckedSamples
from nas.run.exported_model import open_exported
from nas.run.model_parts import ModelParts
from tests.models.fusion import test_contract as contract
from tests.models.test_classifier_use import PAIRS
from tests.run.conftest import FinishedRun
from tests.support.classifiers import tiny_classifier
from tests.support.export_formats import FakeFormat
from tests.support.paths import REPOSITORY
from tests.support.project import Project
from tests.support.tiny import bert_model, raw_batch, vit_model
from tests.support.tiny_families import TinyFamily

NAMES = ("blue", "green", "red")
every_format = pytest.mark.parametrize("name", EXPORT_FORMATS)


def export_tiny(folder: Path, project: Project, members: int = 1, threshold: float | None = None) -> Path:
    """Export a model of encoders with one layer each, whose graph is small."""
    config = load_config(project.root / "search.yaml")
    parts = ModelParts.load(config, NAMES)
    pair = ViTEncoder(vit_model(1, dtype=torch.float32)), BertEncoder(bert_model(1, dtype=torch.float32))
    models = [
        build_model(
            image_encoder=pair[0],
            text_encoder=pair[1],
            architecture=PMFArchitecture(0, 1 + index, 1, 1, 4),
            num_classes=3,
            seed=index,
        )
        for index in range(members)
    ]
    model = assemble_ensemble(
        [(entry, 1 / members) for entry in models],
        image_encoder=pair[0],
        text_encoder=pair[1],
        class_names=NAMES,
        max_text_tokens=parts.max_text_tokens,
        threshold=threshold,
    )
    facts = {"data": config.data.form(), "trial": 3}
    export(folder, model=model, image_processor=parts.image_processor, tokenizer=parts.tokenizer, facts=facts)
    return folder


@pytest.fixture(scope="module")
def original(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("formats") / "model", project)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def own_predictions(folder: Path, project: Project) -> tuple[Any, InputBatch]:
    """Return the probabilities of all samples of the project, and their inputs in one batch."""
    loaded = nas.load(folder, device="cpu")
    rows = [line.split(",") for line in project.manifest.read_text().splitlines()[1:]]
    pictures, texts = [project.images / row[0] for row in rows], [row[1] for row in rows]
    opened = [Image.open(path).convert("RGB") for path in pictures]
    ids, mask = loaded.preprocessor.tokenize(texts)
    batch = InputBatch(loaded.preprocessor.pixel_values(opened), ids, mask.to(torch.int64))
    return loaded.predict_proba(pictures, texts), batch


def card_code(folder: Path, fragment: str) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if fragment in block)
    return str(block)


def export_with_data(original: Path, folder: Path, project: Project, name: str) -> tuple[dict[str, Any], Path]:
    """Write a model in a format by the command, checked with data; returns the facts about the file, and its path."""
    places = ["--data", str(project.manifest), "--images", str(project.images)]
    assert main(["export", str(original), "--output", str(folder), "--format", name, *places]) == 0
    assert not (original / FORMATS[name].file).exists()
    facts = yaml.safe_load((folder / "architecture.yaml").read_text())["formats"][name]
    assert 0 <= facts["largest_difference"] < 1e-5 and set(facts["seconds"]) == {"1", "12"}
    path = folder / facts["file"]
    content = path.read_bytes()
    assert str(REPOSITORY).encode() not in content and b"site-packages" not in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    return facts, path


@pytest.mark.long
def test_onnx_file_and_code_of_the_model_card_give_the_probabilities_of_the_model(
    original: Path, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "this folder"
    facts, path = export_with_data(original, folder, project, "onnx")
    assert facts["checked_with"] == "12 of 12 validation samples"
    expected, batch = own_predictions(folder, project)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    shapes = [entry.shape for entry in session.get_inputs()]
    assert shapes == [["batch", 3, 16, 16], ["batch", "length"], ["batch", "length"]]
    (logits,) = session.run(["logits"], {name: value.numpy() for name, value in batch._asdict().items()})
    assert torch.from_numpy(logits).softmax(dim=1).numpy() == pytest.approx(expected, abs=1e-5)
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(properties["class_names"]) == list(NAMES) and properties["max_text_tokens"] == "8"

    monkeypatch.chdir(tmp_path)
    shutil.copy(project.images / "000.png", "picture.png")
    names: dict[str, Any] = {}
    long_text = "apple boat cat dog egg fox apple boat"
    exec(card_code(folder, "onnxruntime").replace("a text", long_text), names)
    loaded = nas.load(folder, device="cpu")
    assert names["tokens"]["input_ids"].shape == (1, 8)
    trained = loaded.preprocessor.pixel_values([Image.open("picture.png").convert("RGB")])
    assert np.array_equal(names["values"]["pixel_values"], trained.numpy())
    assert names["probabilities"][0] == pytest.approx(loaded.predict_proba("picture.png", long_text), abs=1e-5)


@pytest.mark.long
def test_program_and_code_of_the_model_card_give_the_probabilities_of_the_model(
    original: Path, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "this folder"
    export_with_data(original, folder, project, "torch_export")
    expected, batch = own_predictions(folder, project)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = batch._asdict()
    exec(card_code(folder, "torch.export"), names)
    assert names["logits"].softmax(dim=1).detach().numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.long
def test_code_of_the_model_card_needs_neither_torch_nor_this_package(
    folder: Path, project: Project, tmp_path: Path
) -> None:
    add_formats(folder, ["onnx"], None, print)
    shutil.copy(project.images / "000.png", tmp_path / "picture.png")
    code = "import sys\nsys.modules['torch'] = sys.modules['nas'] = None\n" + card_code(folder, "onnxruntime")
    code = code.replace("this folder", "model")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.replace("'", '"'))
    expected = nas.load(folder, device="cpu").predict_proba(tmp_path / "picture.png", "a text")
    assert list(printed.values()) == pytest.approx(expected, abs=1e-5) and list(printed) == list(NAMES)


@pytest.mark.long
def test_large_weights_are_in_a_second_file(folder: Path, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1)
    add_formats(folder, ["onnx"], None, print)
    data = folder / "model.onnx.data"
    assert data.stat().st_size > 2e4 and stat.S_IMODE(data.stat().st_mode) == 0o644
    expected, batch = own_predictions(folder, project)
    assert FORMATS["onnx"].open(folder / "model.onnx")(batch).softmax(dim=1).numpy() == pytest.approx(
        expected, abs=1e-5
    )
    data.unlink()
    with pytest.raises(Exception, match=r"model\.onnx\.data"):
        FORMATS["onnx"].open(folder / "model.onnx")


@pytest.mark.long
@every_format
@pytest.mark.parametrize("threshold", [None, 0.4])
def test_ensemble_gives_the_probabilities_of_the_model(
    project: Project, tmp_path: Path, name: str, threshold: float | None
) -> None:
    folder = export_tiny(tmp_path / "model", project, members=2, threshold=threshold)
    add_formats(folder, [name], None, print)
    expected, batch = own_predictions(folder, project)
    logits = FORMATS[name].open(folder / FORMATS[name].file)(batch)
    probabilities = logits.softmax(dim=1) if threshold is None else logits.sigmoid()
    assert probabilities.numpy() == pytest.approx(expected, abs=1e-5)
    if name == "onnx" and threshold is not None:
        assert "1 / (1 + np.exp(-logits))  # a label is predicted above 0.4" in card_code(folder, "onnxruntime")


def assert_equal_logits(name: str, model: FusionForClassification, batches: list[Any], path: Path) -> None:
    """Write a model in a format, and compare it on batches of other sizes, lengths and masks."""
    pixels = batches[0][0]
    FORMATS[name].write(trace(model, tuple(pixels.shape[1:]), 20), {}, path)
    run, plain = FORMATS[name].open(path), LogitsModel(model)
    for pixels, ids, mask in batches:
        batch = InputBatch(pixels.float(), ids, mask.to(torch.int64))
        with torch.inference_mode():
            torch.testing.assert_close(run(batch), plain(*batch), rtol=0, atol=1e-4)


BATCHES = [raw_batch(3, 11, seed=5), raw_batch(1, 4, seed=6), raw_batch(6, 20, seed=7)]
PADDED_BEFORE = (*raw_batch(4, 9, seed=8)[:2], raw_batch(4, 9, seed=8)[2].flip(1))


@pytest.mark.long
@every_format
@contract.every_family
def test_every_fusion_family_gives_the_logits_of_the_model(family: str, name: str, tmp_path: Path) -> None:
    model = tiny_classifier(contract.middling(family), dtype=torch.float32)
    assert_equal_logits(name, model, [*BATCHES, PADDED_BEFORE], tmp_path / FORMATS[name].file)


@pytest.mark.long
@every_format
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0]}, {pair[1]}")
def test_every_encoder_family_gives_the_logits_of_the_model(
    pair: tuple[TinyFamily, TinyFamily], name: str, tmp_path: Path
) -> None:
    image, text = pair
    models = image.model(1, 24, torch.float32), text.model(1, 16, torch.float32)
    encoders = image.encoder(models[0]), text.encoder(models[1])
    model = tiny_classifier(PMFArchitecture(0, 2, 1, 3, 5), dtype=torch.float32, pair=encoders)
    pixels, _ = image.batch(torch.float32)
    batches = [(pixels, *text.batch(length=length)) for length in (7, 20, 5)]
    assert_equal_logits(
        name, model, [*batches, tuple(entry[:1] for entry in batches[0])], tmp_path / FORMATS[name].file
    )


@pytest.mark.long
@every_format
def test_interpolated_positions_of_other_image_sizes_are_those_of_the_model(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = Dinov2Model(
        Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, image_size=16, patch_size=8)
    )
    pair = Dinov2Encoder(image.eval()), BertEncoder(bert_model(1, dtype=torch.float32))
    model = tiny_classifier(PMFArchitecture(0, 2, 1, 3, 5), dtype=torch.float32, pair=pair)
    batches = [(torch.randn(size, 3, 40, 24), *raw_batch(size, 9)[1:]) for size in (2, 5)]
    assert_equal_logits(name, model, batches, tmp_path / FORMATS[name].file)


# What surrounds the formats


def test_run_is_exported_and_checked_with_its_validation_split(
    finished: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeFormat(monkeypatch)
    assert main(["export", str(finished.directory), "--output", str(tmp_path / "m"), "--format", "onnx"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Exported model: ")
    assert lines[-1] == (
        f"ONNX: {tmp_path / 'm' / 'model.onnx'} (largest difference of a logit 0.0e+00, 12 of 12 validation samples)"
    )
    sizes = [len(batch.input_ids) for batch in fake.batches]
    assert sizes[:3] == [12, 1, 1] and {batch.input_ids.shape[1] for batch in fake.batches} >= {1, 8}
    assert {path.name for path in (tmp_path / "m").glob("model.*")} == {
        *("model.onnx", "model.onnx.data", "model.safetensors")
    }
    facts = yaml.safe_load((tmp_path / "m" / "architecture.yaml").read_text())
    assert facts["formats"]["onnx"]["seconds"] == {"1": 0.5, "12": 0.5} and "data" in facts
    card = (tmp_path / "m" / "README.md").read_text()
    assert re.search(r"ONNX \(`model\.onnx`\) +\| 0\.0e\+00 \(12 of 12 validation samples\) \| 12 +\| 500\.0 ms", card)
    nas.load(tmp_path / "m", device="cpu")  # the checksums cover the new description


def test_model_card_keeps_what_was_edited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nOur own remark.\n")
    FakeFormat(monkeypatch)
    with pytest.warns(UserWarning, match="README"):
        add_formats(folder, ["onnx"], None, print)
    add_formats(folder, ["onnx"], None, print)
    assert card.read_text().count("Our own remark.") == card.read_text().count("## Other formats") == 1
    facts = yaml.safe_load((folder / "architecture.yaml").read_text())
    assert facts["trial"] == 3 and list(facts["formats"]) == ["onnx"]


def test_model_in_half_precision_is_written_in_float32(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = FusionForClassification.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    half.save_pretrained(folder)
    fake = FakeFormat(monkeypatch)
    add_formats(folder, ["onnx"], None, print)
    assert fake.dtype == torch.float32


@pytest.mark.parametrize("error", [2e-4, math.nan])
def test_file_that_differs_from_the_model_is_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: float
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    FakeFormat(monkeypatch, error)
    assert main(["export", str(folder), "--format", "onnx"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: model.onnx: differs from the model; expected logits equal to 0.0001, got a ")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_random_samples_have_batches_of_all_sizes_and_texts_of_all_lengths(original: Path) -> None:
    samples = CheckedSamples(open_exported(original), None)
    batches = list(samples.batches())
    assert sum(len(batch.input_ids) for batch in batches) == samples.count == 64
    assert {len(batch.input_ids) for batch in batches} >= {32, 1, 2, 5}
    assert {int(length) for batch in batches for length in batch.attention_mask.sum(dim=1)} == set(range(1, 9))
    assert [batch.input_ids.shape for batch in batches[-2:]] == [(1, 1), (1, 8)]
    again = list(samples.batches())
    assert all(
        torch.equal(one, other) for a, b in zip(batches, again, strict=True) for one, other in zip(a, b, strict=True)
    )


def test_tolerance_is_relative_for_large_logits(original: Path) -> None:
    samples = CheckedSamples(open_exported(original), None)

    def plain(batch: InputBatch) -> torch.Tensor:
        return torch.full((len(batch.input_ids), 3), 50.0)

    assert largest_difference(lambda batch: plain(batch) + 0.004, plain, samples, "x") == pytest.approx(0.004, rel=1e-3)
    with pytest.raises(ExportError, match=r"^x: differs from the model"):
        largest_difference(lambda batch: plain(batch) + 0.006, plain, samples, "x")


def test_missing_package_is_named_with_the_command_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    assert main(["export", str(folder), "--format", "onnx"]) == 2
    assert capsys.readouterr().err == (
        "error: --format onnx: onnxscript not installed; expected onnx, onnxscript, onnxruntime; install with: pip "
        "install onnxscript\n"
    )
    check_packages(["torch_export"])


def test_formats_of_the_command_line_are_those_that_are_written() -> None:
    assert tuple(FORMATS) == EXPORT_FORMATS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "holds an exported model already; expected the directory of a run, or --format"),
        (["--format", "onnx", "--trial", "3"], "--trial: not allowed for an exported model; expected a run"),
        (["--format", "onnx", "--images", "photos"], "--images: not allowed without --data"),
    ],
)
def test_wrong_options_for_an_exported_model_are_errors(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(folder), *words]) == 2
    assert message in capsys.readouterr().err


def test_run_needs_an_output(finished: FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(finished.directory)]) == 2
    assert capsys.readouterr().err == "error: export: --output is missing; expected the folder to write\n"


def test_model_without_a_description_gets_the_file_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FusionForClassification.from_pretrained(folder).save_pretrained(folder)
    (folder / "architecture.yaml").unlink()
    FusionForClassification.from_pretrained(folder).save_pretrained(folder)
    FakeFormat(monkeypatch)
    notes: list[str] = []
    add_formats(folder, ["onnx"], None, notes.append)
    assert len(notes) == 1 and "64 random samples" in notes[0]
    assert (folder / "model.onnx").exists() and not (folder / "architecture.yaml").exists()


def test_wrong_format_is_an_argument_error() -> None:
    with pytest.raises(SystemExit):
        main(["export", "model", "--format", "tensorflow"])
