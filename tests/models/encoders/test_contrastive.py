"""The contrastive head of a checkpoint: loaded, copied, stored and refused with its encoders."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nas.common.errors import EncoderError
from nas.models.encoders.checkpoints import build_encoder, load_encoder, trainable_copy
from nas.models.encoders.config_check import check_encoder_config
from nas.models.encoders.contrastive import HEAD
from nas.models.encoders.digests import config_digest, weights_digest
from nas.models.encoders.partial_checkpoint import load_tail, save_tail
from nas.models.encoders.registry import encoder_family
from nas.search.space import WHOLE
from tests.support.tiny import vit_model
from tests.support.tiny_families import clip_model, siglip_model

PROJECTIONS = {"image": "visual_projection", "text": "text_projection"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clip_model().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("modality", ["image", "text"])
def test_head_belongs_to_the_encoder(modality: str, folder: Path, tmp_path: Path) -> None:
    whole: Any = clip_model()
    plain, found = (load_encoder(str(folder), modality, has_head=has_head) for has_head in (False, True))
    assert plain.projection is None and plain.logit_scale is None and not hasattr(plain.config, HEAD)
    expected = getattr(whole, PROJECTIONS[modality])
    readouts = torch.randn(3, plain.hidden_size)
    assert found.projection is not None and not any(weight.requires_grad for weight in found.parameters())
    assert torch.equal(found.projection(readouts), expected(readouts))
    assert found.logit_scale == pytest.approx(math.exp(whole.logit_scale.item()), abs=1e-6)
    assert config_digest(found.config) != config_digest(plain.config)
    assert weights_digest(found) != weights_digest(plain)
    for start in (WHOLE, found.num_layers):
        save_tail(found, start, tmp_path / f"{start}.pt")
        tail = load_tail(found.config, start, tmp_path / f"{start}.pt")
        assert tail.projection is not None and torch.equal(tail.projection(readouts), expected(readouts))
        assert tail.logit_scale == found.logit_scale
    assert build_encoder(found.config).projection is not None
    assert trainable_copy(found).projection is None and trainable_copy(found).logit_scale is None
    copied = trainable_copy(found, is_projected=True).projection
    assert copied is not None and torch.equal(copied(readouts), expected(readouts))
    assert all(weight.requires_grad for weight in copied.parameters())


def test_checkpoint_without_a_head_is_refused(folder: Path, tmp_path: Path) -> None:
    siglip_model().save_pretrained(tmp_path / "siglip")
    with pytest.raises(EncoderError, match=r"text encoder of SigLIP, .* read padding .*; expected model_type clip"):
        load_encoder(str(tmp_path / "siglip"), "image", has_head=True)
    vit_model(1, dtype=torch.float32).save_pretrained(tmp_path / "vit")
    with pytest.raises(EncoderError, match=r"has no projections into a space of .*; expected model_type clip"):
        load_encoder(str(tmp_path / "vit"), "image", has_head=True)
    path = folder / "model.safetensors"
    weights = load_file(path)
    for name, value, message in (
        ("logit_scale", torch.tensor(100.0), "logit_scale: expected at most the logarithm of 1,000,000, got 100.0"),
        ("logit_scale", torch.tensor(math.nan), "logit_scale: expected at most the logarithm of 1,000,000, got nan"),
        ("text_projection.weight", torch.full((8, 16), math.inf), "text_projection.weight is not finite"),
        (
            "visual_projection.weight",
            torch.zeros(8, 3),
            "visual_projection.weight is missing or does not have",
        ),
        ("logit_scale", None, "logit_scale is missing or does not have the size"),
    ):
        changed = {**weights, name: value}
        save_file({key: tensor for key, tensor in changed.items() if tensor is not None}, path, {"format": "pt"})
        with pytest.raises(EncoderError, match=f"model.safetensors: {message}"):
            load_encoder(str(folder), "text", has_head=True)


def test_head_in_the_configuration_of_a_checkpoint_is_ignored(folder: Path) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["text_config"][HEAD] = {"projection_size": 10**9}
    path.write_text(json.dumps(values))
    assert load_encoder(str(folder), "text").projection is None


@pytest.mark.parametrize(
    "values",
    [
        7,
        {},
        {"projection_size": 8},
        {"projection_size": 8, "logit_scale": 0.0},
        {"projection_size": 8, "logit_scale": "1"},
        {"projection_size": True, "logit_scale": 1.0},
        {"projection_size": 2**30, "logit_scale": 1.0},
        {"projection_size": 8, "logit_scale": 1.0, "further": 1},
    ],
)
def test_configuration_of_an_exported_model_that_describes_no_head_is_refused(values: Any) -> None:
    config: Any = clip_model().config.text_config
    setattr(config, HEAD, values)
    with pytest.raises(EncoderError, match=r"config.json: contrastive: not allowed; expected projection_size"):
        check_encoder_config(config, encoder_family(config.model_type), "config.json")
