"""PMF's fast path against the reference, and the properties that its shortcuts must keep."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from nas.models.encoders.bert import BertEncoder
from nas.models.encoders.vit import ViTEncoder
from nas.models.fusion.base import Features
from nas.models.fusion.data_attention import data_attention
from nas.models.fusion.pmf.architecture import PMFArchitecture, trainable_parameter_count
from nas.models.fusion.pmf.layer import unmapped
from nas.models.fusion.pmf.model import PMF
from nas.models.fusion.pmf.reference import reference_logits
from nas.search.space import Architecture, EncoderSizes
from tests.support.tiny import base_features, bert_model, encoders, pmf_model, raw_batch, vit_model

TOLERANCE = 1e-9

ARCHITECTURES = [
    PMFArchitecture(1, 4, 4, 4, 12),
    PMFArchitecture(2, 2, 0, 3, 5),
    PMFArchitecture(1, 1, 2, 0, 7),
    PMFArchitecture(0, 3, 0, 0, 8),
    PMFArchitecture(0, 2, 3, 1, 6),
    PMFArchitecture(1, 7, 1, 2, 6),  # too many prompts to absorb projections: keys and values
    PMFArchitecture(2, 9, 0, 0, 6),
    PMFArchitecture(1, ((2, 5), (4, 1)), ((0, 2), (3, 0)), ((2, 0), (0, 1)), ((6, 3), (2, 9))),  # all genes free
    PMFArchitecture(0, ((1, 3),) * 3, 2, ((0, 0), (1, 1), (4, 4)), 7),  # free per direction and layer
    PMFArchitecture(1, 4, 2, 4, 12, image_readout=1, text_readout=1),
    PMFArchitecture(1, 7, 1, 2, 6, text_readout=1),
    PMFArchitecture(2, 2, 1, 3, 5, text_readout=1),  # a single fusing layer, of which all outputs are needed
    PMFArchitecture(2, 9, 0, 0, 6, image_readout=1),
    PMFArchitecture(1, 0, 2, 3, 6),  # no message
    PMFArchitecture(0, 0, 0, 0, 0),  # nothing but classifiers
    PMFArchitecture(1, 3, 1, 2, 0),  # no mapping
    PMFArchitecture(0, ((0, 2), (1, 0), (3, 3)), 1, ((2, 0), (0, 0), (1, 1)), ((4, 0), (3, 3), (0, 5)), text_readout=1),
]


def model_of(architecture: Architecture, image_layers: int = 4, text_layers: int = 3) -> PMF:
    return pmf_model(architecture, encoders(image_layers, text_layers))


def logits_of(model: PMF, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    logits: torch.Tensor = model(base_features(*model.encoders, model.architecture.fusion_layer, pixels, ids, mask))
    return logits


@pytest.mark.parametrize("depths", [(4, 3), (3, 3), (3, 5)])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_logits_and_all_gradients_equal_the_reference(architecture: Architecture, depths: tuple[int, int]) -> None:
    model = model_of(architecture, *depths)
    pixels, ids, mask = raw_batch()
    labels = torch.arange(len(ids)) % 6

    fast = logits_of(model, pixels, ids, mask)
    fast_gradients = torch.autograd.grad(cross_entropy(fast, labels), list(model.parameters()), allow_unused=True)
    slow = reference_logits(model, pixels, ids, mask)
    slow_gradients = torch.autograd.grad(cross_entropy(slow, labels), list(model.parameters()), allow_unused=True)

    torch.testing.assert_close(fast, slow, rtol=0, atol=TOLERANCE)
    for (name, parameter), got, expected in zip(model.named_parameters(), fast_gradients, slow_gradients, strict=True):
        if parameter.numel():
            assert got is not None and expected is not None, name
            torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE, msg=name)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_every_trained_tensor_gets_a_gradient(architecture: Architecture) -> None:
    model = model_of(architecture)
    pixels, ids, mask = raw_batch()
    cross_entropy(logits_of(model, pixels, ids, mask), torch.arange(len(ids)) % 6).backward()
    for name, parameter in model.named_parameters():
        if parameter.numel():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    for encoder in model.encoders:
        assert all(parameter.grad is None for parameter in encoder.parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_additional_padding_changes_nothing(architecture: Architecture) -> None:
    model = model_of(architecture)
    pixels, ids, mask = raw_batch()
    padded_ids = torch.cat([ids, torch.full((len(ids), 6), 9)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(len(ids), 6, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(
        logits_of(model, pixels, padded_ids, padded_mask), logits_of(model, pixels, ids, mask), rtol=0, atol=TOLERANCE
    )


def test_full_mask_equals_no_mask() -> None:
    model = model_of(ARCHITECTURES[0])
    pixels, ids, _ = raw_batch()
    full = torch.ones_like(ids, dtype=torch.bool)
    torch.testing.assert_close(
        logits_of(model, pixels, ids, full), logits_of(model, pixels, ids, None), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize(
    ("classes", "width", "mapping_width", "expected"),
    [(101, 768, 384, 2_556_106), (23, 768, 384, 2_436_142), (3, 768, 384, 2_405_382), (101, 1024, 512, 4_456_650)],
)
def test_parameter_counts_equal_the_published_ones(classes: int, width: int, mapping_width: int, expected: int) -> None:
    count = trainable_parameter_count(
        image_hidden_size=width,
        text_hidden_size=width,
        fusing_layers=2,
        architecture=PMFArchitecture(10, 4, 4, 4, mapping_width),
        num_classes=classes,
    )
    assert count == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_parameter_counts_equal_those_of_a_model(architecture: PMFArchitecture) -> None:
    model = model_of(architecture)
    image, text = model.encoders
    count = trainable_parameter_count(
        image_hidden_size=image.hidden_size,
        text_hidden_size=text.hidden_size,
        fusing_layers=3 - architecture.fusion_layer,
        architecture=architecture,
        num_classes=6,
    )
    assert count == sum(parameter.numel() for parameter in model.parameters())


def test_parts_that_are_left_out_have_no_parameters() -> None:
    whole, no_mapping, no_message = (
        {name: parameter.shape for name, parameter in model_of(architecture).named_parameters() if parameter.numel()}
        for architecture in (
            PMFArchitecture(2, 4, 2, 3, 5),
            PMFArchitecture(2, 4, 2, 3, 0),
            PMFArchitecture(2, 0, 2, 3, 5),
        )
    )
    assert no_mapping == {name: shape for name, shape in whole.items() if "inner" not in name and "outer" not in name}
    assert no_message == {name: shape for name, shape in no_mapping.items() if "query" not in name}


def test_message_without_mapping_is_cut_or_filled_with_zeros() -> None:
    tokens = torch.arange(12.0).view(1, 2, 6)
    assert unmapped(tokens, 6).equal(tokens) and unmapped(tokens, 4).equal(tokens[..., :4])
    wider = unmapped(tokens, 9)
    assert wider.shape == (1, 2, 9) and wider[..., :6].equal(tokens) and not wider[..., 6:].any()


def test_genes_for_a_wrong_number_of_layers_are_rejected() -> None:
    with pytest.raises(ValueError, match="wrong number of layers; expected 2 for these encoders, got 1"):
        model_of(PMFArchitecture(1, ((2, 5),), 1, 1, 4))


def test_prompts_are_initialized_with_the_published_standard_deviation() -> None:
    model = model_of(PMFArchitecture(0, 64, 64, 64, 4))
    prompts = torch.cat([p.flatten() for name, p in model.named_parameters() if "prompts" in name])
    assert prompts.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(prompts.mean().item()) < 0.002


def test_default_architecture_of_base_encoders_is_the_papers() -> None:
    assert PMFArchitecture.default(EncoderSizes(12, 12, 768, 768)) == PMFArchitecture(10, 4, 4, 4, 384)


@pytest.mark.parametrize("fusion_layer", [-1, 3])
def test_fusion_layer_out_of_range_is_rejected(fusion_layer: int) -> None:
    with pytest.raises(ValueError, match="fusion_layer: out of range for these encoders; expected 0 to 2"):
        model_of(PMFArchitecture(fusion_layer, 1, 1, 1, 1))


def with_stored_attention(model: PMF, features: Features) -> Features:
    """Add the attention of the data tokens over each other in the first fusing layer."""
    starts = model.entry_layers()
    attended = []
    for encoder, start, rows, mask in zip(
        model.encoders,
        starts,
        (features.image_tokens, features.text_tokens),
        (None, features.text_mask),
        strict=True,
    ):
        assert start is not None
        bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
        attended.append(data_attention(encoder.layers[start], rows, bias))
    return replace(features, image_attention=attended[0], text_attention=attended[1])


@pytest.mark.parametrize("depths", [(4, 3), (3, 5)])
@pytest.mark.parametrize("is_padded", [True, False])
@pytest.mark.parametrize("architecture", [entry for entry in ARCHITECTURES if entry.fusion_layer < 2], ids=str)
def test_stored_attention_changes_neither_logits_nor_gradients(
    architecture: PMFArchitecture, is_padded: bool, depths: tuple[int, int]
) -> None:
    model = model_of(architecture, *depths)
    pixels, ids, mask = raw_batch()
    features = base_features(*model.encoders, architecture.fusion_layer, pixels, ids, mask if is_padded else None)
    outcomes = []
    for given in (features, with_stored_attention(model, features)):
        logits = model(given)
        loss = cross_entropy(logits, torch.arange(len(ids)) % 6)
        outcomes.append([logits, *torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)])
    for got, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


def test_stored_attention_is_used() -> None:
    model = model_of(ARCHITECTURES[0])
    features = with_stored_attention(model, base_features(*model.encoders, 1, *raw_batch()))
    for name in ("image_attention", "text_attention"):
        stored = getattr(features, name)
        other = replace(features, **{name: replace(stored, attended=stored.attended + 1)})
        assert (model(other) - model(features)).abs().max() > 1e-3, name


@pytest.mark.parametrize("is_stored", [False, True], ids=["tokens only", "stored attention"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_half_precision_features_change_logits_only_by_rounding(architecture: PMFArchitecture, is_stored: bool) -> None:
    model = model_of(architecture)
    features = base_features(*model.encoders, architecture.fusion_layer, *raw_batch())
    half = features.to(torch.float16)
    if is_stored:
        richer = with_stored_attention(model, features)
        assert richer.image_attention is not None and richer.text_attention is not None
        half = replace(
            half,
            image_attention=replace(richer.image_attention, attended=richer.image_attention.attended.half()),
            text_attention=replace(richer.text_attention, attended=richer.text_attention.attended.half()),
        )
    got, expected = model(half), model(features)
    assert got.dtype == torch.float64 and not torch.equal(got, expected)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-2)


def float32_model_of(architecture: Architecture) -> PMF:
    """Return the model of `model_of` with its weights rounded to float32."""
    pair = ViTEncoder(vit_model(4, dtype=torch.float32)), BertEncoder(bert_model(3, dtype=torch.float32))
    return pmf_model(architecture, pair)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_float32_model_differs_from_the_float64_model_only_by_rounding(architecture: Architecture) -> None:
    batch = raw_batch()
    outcomes = []
    for model in (float32_model_of(architecture), model_of(architecture)):
        logits = logits_of(model, *batch)
        loss = cross_entropy(logits, torch.arange(len(logits)) % 6)
        outcomes.append([logits, *torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)])
    for got, expected in zip(*outcomes, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("is_stored", [False, True], ids=["tokens only", "stored attention"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_autocast_training_has_float32_gradients(architecture: PMFArchitecture, is_stored: bool) -> None:
    model = float32_model_of(architecture)
    features = base_features(*model.encoders, architecture.fusion_layer, *raw_batch())
    if is_stored:
        features = with_stored_attention(model, features)
    labels, parameters = torch.arange(5) % 6, list(model.parameters())
    expected = model(features)
    expected_gradients = torch.autograd.grad(cross_entropy(expected, labels), parameters, materialize_grads=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(features)
        loss = cross_entropy(got, labels)
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    assert not torch.equal(got.float(), expected)
    torch.testing.assert_close(got.float(), expected, rtol=0.05, atol=0.05)
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert gradient.dtype == torch.float32 and gradient.isfinite().all(), name
    # All tensors together: rounding moves single units across the kink of the ReLU, which may dominate a small tensor.
    difference, whole = (
        torch.cat([tensor.flatten() for tensor in tensors])
        for tensors in ([a - b for a, b in zip(gradients, expected_gradients, strict=True)], expected_gradients)
    )
    assert difference.norm() < 0.03 * whole.norm()
