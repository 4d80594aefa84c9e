"""The small CLIP starts as the encoders it is made of, sees nothing that is held out, and survives interruptions."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPVisionModel, ViTConfig, ViTModel

from benchmarks.suite.data_set import Sample, write_data_set
from benchmarks.suite.small_clip import make, sources
from benchmarks.suite.small_clip.check import ZeroShot
from benchmarks.suite.small_clip.leaks import held_out_pictures, near_copies
from benchmarks.suite.small_clip.loss import contrastive_loss, equal_pairs
from benchmarks.suite.small_clip.model import copy_blocks, fit_extra_norm, vision_config
from benchmarks.suite.small_clip.pairs import TEMPLATES, Material, random_text, without_copies
from benchmarks.suite.small_clip.quick import COLOURS, SHAPES, draw, shapes
from benchmarks.suite.small_clip.sources import Pair
from benchmarks.suite.small_clip.training import Recipe, Training
from benchmarks.suite.small_clip.views import cached_rows, keep_patches, lower_rows, random_views, upper_readout
from demo.clipart_package import ClipArt
from nas.common.errors import DataError
from nas.models.encoders.checkpoints import load_encoder
from nas.models.encoders.pretrained import load_image_processor

WIDTH = 32


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def vit() -> ViTModel:
    """Return a small Vision Transformer with random weights, norms and biases included."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, image_size=16, patch_size=8
    )
    model: ViTModel = ViTModel(config, add_pooling_layer=False).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def copied(vit: ViTModel) -> CLIPVisionModel:
    torch.manual_seed(1)
    model: CLIPVisionModel = CLIPVisionModel(vision_config(vit.config)).double().eval()
    copy_blocks(vit, model)
    return model


def test_copied_blocks_compute_what_the_vision_transformer_does(vit: ViTModel) -> None:
    """Without the extra norm, all hidden states and the readout are equal."""
    model = copied(vit)
    model.register_module("pre_layrnorm", torch.nn.Identity())
    pixels = torch.rand(5, 3, 16, 16, dtype=torch.float64)
    with torch.inference_mode():
        expected = vit(pixels, output_hidden_states=True)
        for layers, rows in enumerate(expected.hidden_states):
            torch.testing.assert_close(lower_rows(model, pixels, layers), rows, rtol=0, atol=1e-12)
            readout = upper_readout(model, rows, layers)
            torch.testing.assert_close(readout, expected.last_hidden_state[:, 0], rtol=0, atol=1e-12)


def test_extra_norm_starts_close_to_the_identity(vit: ViTModel) -> None:
    """The readout of other pictures is nearly the Vision Transformer's, and the norm can be trained."""
    model = copied(vit)
    pixels = torch.rand(40, 3, 16, 16, dtype=torch.float64)
    with torch.inference_mode():
        fit_extra_norm(model, vit.embeddings(pixels[:32]))
        expected = vit(pixels[32:]).last_hidden_state[:, 0]
        found = model(pixels[32:]).pooler_output
    assert float((found - expected).norm() / expected.norm()) < 0.1
    assert model.pre_layrnorm.weight.requires_grad


def test_extra_norm_removes_only_mean_and_one_direction(vit: ViTModel) -> None:
    """With a large offset, this is exact: the rest of every row passes, also of rows that were not fitted."""
    model = copied(vit)
    before = model.embeddings.position_embedding.weight.detach().clone()
    pixels = torch.rand(40, 3, 16, 16, dtype=torch.float64)
    with torch.inference_mode():
        fit_extra_norm(model, vit.embeddings(pixels[:32]), offset=1e6)
        rows = vit.embeddings(pixels[32:])
        direction = (model.embeddings.position_embedding.weight - before)[0]
        axes = torch.linalg.qr(torch.stack([direction, torch.ones_like(direction)], dim=1))[0]
        difference = model.pre_layrnorm(model.embeddings(pixels[32:])) - rows
        rest = difference - difference @ axes @ axes.T
    assert float(rest.abs().max()) < 1e-4
    assert float(difference.abs().max()) > 1e-2  # the means


def slow_loss(image: np.ndarray, text: np.ndarray, scale: float, positive: np.ndarray) -> float:
    """Return the loss, pair by pair."""
    total, count = 0.0, len(image)
    for queries, keys in ((image, text), (text, image)):
        for row in range(count):
            scores = [scale * float(queries[row] @ keys[column]) for column in range(count)]
            norm = np.log(sum(np.exp(score) for score in scores))
            chosen = [column for column in range(count) if positive[row, column]]
            total -= sum(scores[column] - norm for column in chosen) / len(chosen) / count / 2
    return total


def test_contrastive_loss_is_that_of_a_slow_loop() -> None:
    """With equal keys as further positives; uniform embeddings give log B."""
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1) for _ in range(2))
    positive = equal_pairs("abcadd", "xyzuvw")
    assert positive.sum() == 6 + 2 + 2
    scale = torch.tensor(7.0, dtype=torch.float64)
    expected = slow_loss(image.numpy(), text.numpy(), 7.0, positive.numpy())
    assert float(contrastive_loss(image, text, scale, positive)) == pytest.approx(expected, rel=1e-12)
    same = torch.eye(1, 4, dtype=torch.float64).expand(6, -1)
    assert float(contrastive_loss(same, same, scale, torch.eye(6, dtype=torch.bool))) == pytest.approx(np.log(6))


def test_texts_are_title_and_keywords_and_nothing_else() -> None:
    """Single keywords occur as a whole text; a pair without title or without keywords has a text, too."""
    rng = np.random.default_rng(0)
    pair = Pair("animals/secret_01.png", "Old lion", ("animal", "cat", "big cat"), "openclipart")
    texts = {random_text(pair, rng) for _ in range(400)}
    assert {"Old lion", "animal", "cat", "big cat"} <= texts
    phrases = "|".join(re.escape(template.removesuffix("{}")) for template in TEMPLATES)
    for text in texts:
        assert set(re.sub(f"^({phrases})", "", text).split(", ")) <= {"Old lion", *pair.keywords}
    assert random_text(Pair("", "", ("cat",), ""), rng).endswith("cat")
    assert random_text(Pair("", "Lion", (), ""), rng).endswith("Lion")


def test_planted_copies_of_held_out_pictures_are_left_out(tmp_path: Path) -> None:
    """At another size, in grey or shifted; others stay, unless they have no ink or no text of their own."""
    hidden, test, seen = draw("cross", "red"), draw("triangle", "blue"), draw("square", "green")
    kept = [Sample(f"{i}.png", "x", ("y",), split) for i, split in enumerate(("validation", "test", "train"))]
    small = [Image.fromarray(one).resize((64, 64), Image.Resampling.LANCZOS) for one in (hidden, test, seen)]
    data = write_data_set(tmp_path, kept, {f"{i}.png": png(one) for i, one in enumerate(small)})
    held_out = held_out_pictures(data)
    assert [picture.shape for picture in held_out] == [(64, 64, 3)] * 2
    grey = np.asarray(Image.fromarray(test).convert("L").convert("RGB"))
    planted = {"copy": hidden, "grey": grey, "shifted": np.roll(hidden, 9, axis=1)}
    free = {"training": seen, "other": draw("circle", "red")}
    unusable = {"blank": np.full_like(seen, 250), "no text": seen}
    found = [
        (Pair(name, "" if name == "no text" else name, (), "s"), picture)
        for name, picture in {**planted, **free, **unusable}.items()
    ]
    found += [(Pair(f"icon {i}", "", ("icon", "theme"), "s"), draw("circle", "black", 20 + i)) for i in range(21)]
    material = without_copies(found, held_out, {"held out": {"task": 2}})
    assert [pair.key for pair in material.pairs] == list(free)
    np.testing.assert_array_equal(material.pictures, list(free.values()))
    assert material.counts == {"held out": {"task": 2}, "kept": {"s": 2}, "near copies left out": {"s": 3}}
    assert not near_copies([seen], []).any()
    material.save(tmp_path / "pairs")
    assert Material.load(tmp_path / "pairs").pairs == material.pairs


def test_icons_are_read_with_their_own_names_and_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trade marks, deprecated icons and outlines of other icons are left out."""
    folder = tmp_path / "package" / "svg"
    folder.mkdir(parents=True)
    listed: list[dict[str, Any]] = [
        {"name": "dog-side", "aliases": ["puppy"], "tags": ["Animal", "Food / Drink"]},
        {"name": "dog-side-outline", "aliases": [], "tags": ["Animal"]},
        {"name": "cup-outline", "aliases": [], "tags": []},
        {"name": "brand", "aliases": [], "tags": ["Brand / Logo"]},
        {"name": "old", "aliases": [], "tags": [], "deprecated": True},
    ]
    (tmp_path / "package" / "meta.json").write_text(json.dumps([{"deprecated": False, **entry} for entry in listed]))
    for entry in listed:
        (folder / f"{entry['name']}.svg").write_text("<svg />")
    archive = Path(shutil.make_archive(str(tmp_path / "mdi"), "gztar", tmp_path, "package"))
    monkeypatch.setattr(sources, "_archive", lambda package, folder: archive)
    monkeypatch.setattr(sources, "rasterize", lambda svg: svg)
    found = list(sources.read_material(tmp_path, tmp_path))
    assert [pair for pair, _ in found] == [
        Pair("material:dog-side", "dog side", ("puppy", "animal", "food", "drink"), "material"),
        Pair("material:cup-outline", "cup outline", (), "material"),
    ]
    assert "fill:#" in str(found[0][1])


def test_keywords_of_a_drawing_are_not_its_author() -> None:
    keywords = ("Big_Cat", "unsorted", "ann lee", "lion", "Ann")
    assert sources.own_keywords(ClipArt("x.png", (), "Lion", "Ann Lee-Smith", keywords)) == ("Big Cat", "lion")
    assert sources.own_keywords(ClipArt("x.png", (), "Lion", "", keywords[-2:])) == ("lion", "Ann")


@pytest.fixture(scope="module")
def material() -> Material:
    return without_copies(shapes(), [], {})


def tiny_clip(material: Material) -> CLIPModel:
    """Return a model whose pictures are those of the demo's encoder, and whose tokens are letters."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": 128, "max_position_embeddings": 40, "eos_token_id": 1},
        vision_config={**sizes, "image_size": 64, "patch_size": 32},
        projection_dim=8,
    )
    model: CLIPModel = CLIPModel(config).eval()
    return model


def letters(texts: list[str]) -> torch.Tensor:
    width = max(map(len, texts)) + 1
    return torch.tensor([[*map(ord, text), *[1] * (width - len(text))] for text in texts])


RECIPE = Recipe(steps=5, batch=6, frozen_layers=1, views=2, kept_patches=2, whole_share=0.4, whole_batch=4)


def test_training_resumes_after_a_kill_as_if_nothing_had_happened(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps after the last checkpoint, and blocks of frozen rows after the last written one, are computed again."""
    notes: list[str] = []
    whole = Training(tiny_clip(material), material, letters, RECIPE, tmp_path / "whole", notes.append)
    before = {name: parameter.detach().clone() for name, parameter in whole.model.named_parameters()}
    whole.run(minutes=10)
    assert whole.is_done and "step 5 of 5" in notes[-1]
    moved = {name for name, parameter in whole.model.named_parameters() if not parameter.equal(before[name])}
    assert {"vision_model.pre_layrnorm.weight", "text_model.embeddings.token_embedding.weight", "logit_scale"} <= moved

    def killed(text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.suite.small_clip.views._BLOCK", 7)
    monkeypatch.setattr("benchmarks.suite.small_clip.views._NOTE_EVERY", 3)
    work = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        Training(tiny_clip(material), material, letters, RECIPE, work, killed)
    assert (work / "rows.done").read_text() == "3"
    first = Training(tiny_clip(material), material, letters, RECIPE, work, notes.append)
    first.train_step()
    first.train_step()
    first.save()
    first.train_step()  # lost: no checkpoint has it
    second = Training(tiny_clip(material), material, letters, RECIPE, work, notes.append)
    assert second.step == 2
    second.run(minutes=10)
    reference = Training(tiny_clip(material), material, letters, RECIPE, tmp_path / "again", notes.append)
    reference.run(minutes=10)
    for name, parameter in reference.model.named_parameters():
        assert parameter.equal(second.model.get_parameter(name)), name
    with pytest.raises(DataError, match="of another training"):
        Training(tiny_clip(material), material, letters, Recipe(steps=6), work, notes.append)


def test_frozen_rows_are_those_of_the_pictures(material: Material, tmp_path: Path) -> None:
    """The first view is the whole picture; patches that are kept still give the readout of all if all are kept."""
    vision = tiny_clip(material).vision_model
    rows = cached_rows(vision, material.pictures, 1, 2, tmp_path / "rows.npy", lambda text: None, 0)
    assert rows.shape == (2, 24, 5, 16)
    rng = np.random.default_rng(0)
    pixels = random_views(material.pictures[:3], 64, rng, whole=True)
    half = Image.fromarray(material.pictures[0]).resize((64, 64), Image.Resampling.BOX)
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0), np.asarray(half) / 127.5 - 1, atol=0.01)
    with torch.inference_mode():
        expected = lower_rows(vision, pixels, 1)
        everything = keep_patches(expected, 4, rng)
        torch.testing.assert_close(torch.from_numpy(rows[0, :3].astype(np.float32)), expected, rtol=0.02, atol=0.02)
        torch.testing.assert_close(upper_readout(vision, everything, 1), upper_readout(vision, expected, 1))
    assert not np.array_equal(rows[0], rows[1])


def test_zero_shot_figures_have_their_intervals() -> None:
    """Wilson's interval in closed form; the constant answer of a large class does not pass."""
    labels = np.repeat(np.arange(15), [86, *[1] * 14])
    constant = ZeroShot(labels == 0, labels, 15)
    assert (constant.accuracy, constant.majority) == (0.86, 0.86)
    assert constant.balanced == pytest.approx(1 / 15)
    assert not constant.passes
    centre, half = (86 + 1.959964**2 / 2) / (100 + 1.959964**2), 1.959964 / (100 + 1.959964**2)
    half *= np.sqrt(86 * 14 / 100 + 1.959964**2 / 4)
    assert constant.interval == pytest.approx((centre - half, centre + half), rel=1e-5)
    even = np.repeat(np.arange(15), 40)
    good = ZeroShot(np.tile(np.arange(40) < 12, 15), even, 15)
    assert [good.accuracy, good.balanced] == pytest.approx([0.3, 0.3])
    deviation = np.sqrt(0.3 * 0.7 / 600)  # of equal classes: that of the accuracy
    assert good.balanced_interval == pytest.approx((0.3 - 1.959964 * deviation, 0.3 + 1.959964 * deviation), rel=1e-6)
    assert good.passes
    assert not ZeroShot(np.tile(np.arange(40) < 5, 15), even, 15).passes


@pytest.mark.long
def test_quick_form_writes_a_checkpoint_that_transformers_and_nas_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its folder has weights, tokenizer, image processor, card and checksum; both read a text at its end token."""
    output = tmp_path / "clip"
    with pytest.raises(SystemExit, match=r"clip: no checkpoint; expected config\.json"):
        make.main(["--output", str(output), "--check"])
    make.main(["--output", str(output), "--quick"])
    with pytest.raises(SystemExit) as ended:
        make.main(["--output", str(output), "--check"])
    printed = capsys.readouterr().out
    assert ended.value.code == 1 and "does not pass" in printed  # six steps on shapes teach nothing
    assert sum(path.stat().st_size for path in output.iterdir()) <= 30_000_000
    digest = (output / "SHA256SUMS").read_text().split()[0]
    assert f"SHA-256 of the weights {digest}" in printed
    assert "random answers: 0.067" in (output / "README.md").read_text()

    model = CLIPModel.from_pretrained(output, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(output)
    texts = ["a red circle", "élan of the Alps", ""]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    end = model.config.text_config.eos_token_id
    assert (batch["input_ids"] == end).sum(dim=1).tolist() == [1, 1, 1]
    encoder = load_encoder(str(output), "text")
    vision = load_encoder(str(output), "image")
    pixels = load_image_processor(str(output))(images=Image.new("RGB", (80, 80), "red"), return_tensors="pt")
    with torch.inference_mode():
        pooled = model.text_model(**batch).pooler_output
        mask = batch["attention_mask"].bool()
        rows = _through(encoder, batch["input_ids"], mask)
        torch.testing.assert_close(encoder.readout_rows(rows, mask)[:, 0], pooled, rtol=0, atol=1e-5)
        image = _through(vision, pixels["pixel_values"], None)
        expected = model.vision_model(pixels["pixel_values"]).pooler_output
        torch.testing.assert_close(vision.readout_rows(image, None)[:, 0], expected, rtol=0, atol=1e-4)


def _through(encoder: Any, inputs: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the finished rows of all layers."""
    rows = encoder.embed(inputs)
    bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
    for layer in encoder.layers:
        rows = layer.attend(rows, layer.keys_values(rows), bias)
    finished: torch.Tensor = encoder.finish(rows)
    return finished


def test_shapes_are_all_different() -> None:
    assert len({picture.tobytes() for _, picture in shapes()}) == len(COLOURS) * len(SHAPES)
