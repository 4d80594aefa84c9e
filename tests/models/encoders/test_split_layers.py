"""Layers of every encoder family, split after their attention."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from nas.common.errors import EncoderError
from nas.models.encoders.split_layers import halves_of, run_split
from tests.support.tiny import encoders
from tests.support.tiny_families import ALL_FAMILIES, TinyFamily

every_family = pytest.mark.parametrize("family", ALL_FAMILIES, ids=str)


@every_family
def test_halves_of_every_family_equal_the_layers_of_transformers(family: TinyFamily) -> None:
    model = family.model()
    encoder, (inputs, mask) = family.encoder(model), family.batch()
    seen = None if family.modality == "image" else mask
    for index, (rows, expected) in enumerate(family.layer_calls(model, inputs, mask)):
        bias = encoder.data_bias(seen, rows.shape[1], rows.dtype)
        rest = halves_of(encoder, index).feed_forward
        for whole in (False, True):
            got = run_split(encoder, index, rows, bias, rest, whole=whole)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        wanted = encoder.readout_rows(rows, seen), encoder.readout_bias(bias, seen)
        got = run_split(encoder, index, rows, bias, rest, whole=False, wanted=wanted)
        torch.testing.assert_close(got, encoder.readout_rows(expected, seen), rtol=0, atol=1e-12)


@every_family
def test_feed_forward_calls_the_named_parts_alone(family: TinyFamily) -> None:
    encoder = family.encoder(family.model())
    halves, layer = halves_of(encoder, 0), encoder.layers[0].module
    parts: Any = nn.Module()
    for name in halves.feed_forward_parts:
        parts.add_module(name, layer.get_submodule(name))
    rows = torch.randn(2, 3, 16, dtype=torch.float64)
    assert torch.equal(halves.feed_forward(parts, rows), halves.feed_forward(layer, rows))
    own = {id(entry) for name in halves.feed_forward_parts for entry in layer.get_submodule(name).parameters()}
    gradients = torch.autograd.grad(
        halves.feed_forward(layer.requires_grad_(True), rows).sum(), list(layer.parameters()), allow_unused=True
    )
    read = {id(entry) for entry, gradient in zip(layer.parameters(), gradients, strict=True) if gradient is not None}
    assert read == own


def test_split_layer_counts_what_was_changed_in_it_and_may_be_checkpointed() -> None:
    encoder, rows = encoders()[1], torch.randn(2, 3, 16, dtype=torch.float64, requires_grad=True)
    run = partial(run_split, encoder, 0, rows, None, halves_of(encoder, 0).feed_forward, whole=True)
    (expected,) = torch.autograd.grad(run().sum(), rows)
    layer: Any = encoder.layer_modules()[0]
    layer.gradient_checkpointing = True
    (got,) = torch.autograd.grad(run().sum(), rows)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    before = run()
    layer.output.dense = nn.Sequential(layer.output.dense)
    torch.testing.assert_close(run(), before, rtol=0, atol=1e-12)
    layer.output.dense.append(nn.Identity()).register_forward_hook(lambda module, given, output: output * 2)
    assert float((run() - before).detach().abs().max()) > 1e-3


def test_layer_without_halves_is_an_error() -> None:
    encoder = encoders()[1]
    encoder.layers[2].halves = None
    with pytest.raises(
        EncoderError, match="bert encoder: its layers cannot be split after their attention; expected the"
    ):
        halves_of(encoder, 2)
