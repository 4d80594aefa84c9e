"""The contract of every block family: primitives put together are the layer, layers put together are the model."""

import pytest
import torch

from nas.encoders import EncoderLayer, load_encoder, padding_bias, resolve_checkpoint
from nas.encoders.bert import BertEncoder
from nas.encoders.vit import ViTEncoder
from nas.errors import EncoderError
from tests.tiny import bert_model, raw_batch, vit_model


def whole(layer: EncoderLayer, rows: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return layer.attend(rows, layer.keys_values(rows), bias)


def test_vit_layers_and_stack_equal_the_model() -> None:
    model = vit_model()
    encoder, (pixels, _, _) = ViTEncoder(model), raw_batch()
    rows = encoder.embed(pixels)
    for layer, original in zip(encoder.layers, model.layers, strict=True):
        torch.testing.assert_close(whole(layer, rows, None), original(rows), rtol=0, atol=1e-9)
    stacked = encoder.finish(encoder.run(rows, None, start=0, stop=encoder.depth))
    torch.testing.assert_close(stacked, model(pixels).last_hidden_state, rtol=0, atol=1e-9)


def test_bert_layers_and_stack_equal_the_model_under_padding() -> None:
    model = bert_model()
    encoder, (_, ids, mask) = BertEncoder(model), raw_batch()
    rows, bias = encoder.embed(ids), padding_bias(mask, torch.float64)
    for layer, original in zip(encoder.layers, model.encoder.layer, strict=True):
        expected = original(rows, bias.expand(-1, -1, ids.shape[1], -1))
        torch.testing.assert_close(whole(layer, rows, bias)[mask], expected[mask], rtol=0, atol=1e-9)
    stacked = encoder.finish(encoder.run(rows, bias, start=0, stop=encoder.depth))
    expected = model(ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(stacked[mask], expected[mask], rtol=0, atol=1e-9)


def test_an_encoder_stays_frozen_and_in_evaluation_mode() -> None:
    encoder = BertEncoder(bert_model()).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_an_unsupported_family_names_the_supported_ones(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(EncoderError, match=r"'gpt2' is not a supported text encoder; supported: bert .*nas/encoders/"):
        load_encoder(str(tmp_path), "text")


def test_a_text_encoder_in_the_image_role_is_refused(tmp_path) -> None:
    bert_model().save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="'bert' is not a supported image encoder; supported: vit"):
        load_encoder(str(tmp_path), "image")


def test_a_checkpoint_loads_in_the_asked_precision(tmp_path) -> None:
    vit_model().half().save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), "image")
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_names_resolve_to_folders_packages_or_the_hub(tmp_path) -> None:
    bert_model().save_pretrained(tmp_path / "local")
    assert resolve_checkpoint("local", tmp_path) == str(tmp_path / "local")
    assert resolve_checkpoint("bert-base-uncased", tmp_path) == "bert-base-uncased"
    with pytest.raises(EncoderError, match="there is no checkpoint in"):
        resolve_checkpoint("./missing", tmp_path)
    with pytest.raises(EncoderError, match="package 'no_such_package' is not installed"):
        resolve_checkpoint("package:no_such_package/model", tmp_path)
