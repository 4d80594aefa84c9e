"""Products with frozen weights compared with those of torch: values, gradients and memory."""

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from nas.memory.tracker import PeakTracker
from nas.models.encoders import frozen_ops as frozen
from nas.models.encoders.frozen_ops import ACTIVATIONS, FrozenFeedForward, frozen_linear, product, rows_per_chunk

PLAIN_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": nn.GELU(),
    "gelu_pytorch_tanh": nn.GELU(approximate="tanh"),
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + torch.exp(-1.702 * x)),
    "relu": nn.ReLU(),
    "silu": nn.SiLU(),
}
WIDTH, HIDDEN = 6, 10


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def layers(dtype: torch.dtype = torch.float64) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    inner, outer = nn.Linear(WIDTH, HIDDEN, dtype=dtype), nn.Linear(HIDDEN, WIDTH, dtype=dtype)
    return inner.requires_grad_(False), outer.requires_grad_(False)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the number of rows of a chunk at the smallest chunk size."""
    monkeypatch.setattr(frozen, "_CHUNK_BYTES", 1)
    return 64


@pytest.fixture(params=[True, False], ids=["oneDNN", "no oneDNN"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(frozen, "_has_onednn", lambda: False)


def test_chunks_are_few_for_any_number_of_rows() -> None:
    assert rows_per_chunk(torch.empty(10_000, device="meta"), 256) == 256
    for count in (10**6, 10**6 + 1, 10**12):
        assert 100 < count / rows_per_chunk(torch.empty(count, device="meta"), 256) <= 128


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-14)], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_transposed", [True, False])
@pytest.mark.parametrize("shape", [(40, 24), (3, 5, 24), (1, 24)], ids=str)
def test_product_equals_the_linear_function(
    shape: tuple[int, ...], is_transposed: bool, has_bias: bool, dtype: torch.dtype, tolerance: float
) -> None:
    rows, bias = random(*shape), random(17) if has_bias else None
    weight = random(24, 17).t() if is_transposed else random(17, 24)
    expected = linear(rows, weight, bias)  # in float64
    got = product(rows.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    assert got.dtype == dtype and got.shape == expected.shape
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.mark.usefixtures("onednn")
def test_product_is_computed_in_the_dtype_of_the_rows() -> None:
    rows, weight, bias = random(8, 24), random(17, 24), random(17)
    got = product(rows.bfloat16(), weight.float(), bias.float())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), linear(rows, weight, bias), rtol=0.02, atol=0.1)


@pytest.mark.parametrize("shape", [(1, WIDTH), (130, WIDTH), (3, 5, WIDTH)], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_frozen_linear_layer_has_the_output_and_input_gradient_of_the_plain_one(
    shape: tuple[int, ...], has_bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(WIDTH, HIDDEN, bias=has_bias, dtype=torch.float64).requires_grad_(False)
    rows = random(*shape).requires_grad_()
    upstream = random(*shape[:-1], HIDDEN)
    got, expected = frozen_linear(rows, layer), layer(rows)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(got, rows, upstream), torch.autograd.grad(expected, rows, upstream), rtol=0, atol=1e-12
    )


def test_suite_covers_every_activation() -> None:
    assert set(PLAIN_ACTIVATIONS) == set(ACTIVATIONS)


@pytest.mark.parametrize("row_counts", [(1,), (63,), (64,), (65,), (200,), (3, 50)], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_chunked_feed_forward_has_the_output_and_input_gradient_of_the_plain_one(
    activation: str, row_counts: tuple[int, ...], small_chunks: int
) -> None:
    inner, outer = layers()
    rows = (3 * random(*row_counts, WIDTH)).requires_grad_()
    upstream = random(*row_counts, WIDTH) + 1
    got = FrozenFeedForward(inner, activation, outer)(rows)
    expected = outer(PLAIN_ACTIVATIONS[activation](inner(rows)))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(got, rows, upstream), torch.autograd.grad(expected, rows, upstream), rtol=0, atol=1e-12
    )


def test_feed_forward_computes_one_chunk_at_a_time(small_chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def counted(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        counts.append(len(rows))
        return product(rows, weight, bias)

    monkeypatch.setattr(frozen, "product", counted)
    inner, outer = layers()
    rows = random(small_chunks + 7, WIDTH).requires_grad_()
    FrozenFeedForward(inner, "gelu", outer)(rows).sum().backward()
    assert counts == [small_chunks, small_chunks, 7, 7] * 2


def test_upstream_gradient_is_not_modified() -> None:
    inner, outer = layers()
    rows, upstream = random(9, WIDTH).requires_grad_(), random(9, WIDTH)
    before = upstream.clone()
    torch.autograd.grad(FrozenFeedForward(inner, "gelu", outer)(rows), rows, upstream)
    torch.autograd.grad(frozen_linear(rows, inner), rows, random(9, HIDDEN))
    assert torch.equal(upstream, before)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_trained_weights_get_the_gradients_of_plain_layers(activation: str) -> None:
    inner, outer = (layer.requires_grad_() for layer in layers())
    rows, weights = random(2, 5, WIDTH).requires_grad_(), [*inner.parameters(), *outer.parameters()]
    got = FrozenFeedForward(inner, activation, outer)(rows) + frozen_linear(frozen_linear(rows, inner), outer)
    expected = outer(PLAIN_ACTIVATIONS[activation](inner(rows))) + outer(inner(rows))
    upstream = random(2, 5, WIDTH)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(got, [rows, *weights], upstream),
        torch.autograd.grad(expected, [rows, *weights], upstream),
        rtol=0,
        atol=1e-12,
    )


def test_unknown_activation_is_rejected() -> None:
    with pytest.raises(KeyError, match="swiglu"):
        FrozenFeedForward(*layers()[:1], "swiglu", layers()[1])


@pytest.mark.parametrize("kind", ["linear", "feed-forward"])
def test_autocast_products_are_bfloat16_and_gradients_float32(kind: str, small_chunks: int) -> None:
    inner, outer = layers(torch.float32)
    function = FrozenFeedForward(inner, "gelu", outer) if kind == "feed-forward" else lambda x: frozen_linear(x, inner)
    rows = random(2, 50, WIDTH, dtype=torch.float32).requires_grad_()
    expected = function(rows)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = function(rows)
    (gradient,) = torch.autograd.grad(got.float().sum(), rows)
    assert got.dtype == torch.bfloat16 and gradient.dtype == torch.float32
    assert not torch.equal(got.float(), expected)
    torch.testing.assert_close(got.float(), expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_feed_forward_keeps_only_its_hidden_activation(dtype: torch.dtype, small_chunks: int) -> None:
    inner, outer = layers(dtype)
    function = FrozenFeedForward(inner, "gelu", outer)
    rows = random(200, WIDTH, dtype=dtype).requires_grad_()
    count = len(rows) * dtype.itemsize
    with PeakTracker([rows, *inner.parameters(), *outer.parameters()]) as tracker:
        output = function(rows)
        assert tracker.live_bytes == count * (HIDDEN + WIDTH)
        (gradient,) = torch.autograd.grad(output, rows, torch.ones_like(rows))
        assert tracker.live_bytes == count * (WIDTH + WIDTH)  # output and gradient; the hidden activation is released
    assert gradient.shape == rows.shape


def test_feed_forward_without_a_graph_keeps_nothing(small_chunks: int) -> None:
    inner, outer = layers()
    rows = random(200, WIDTH)
    with PeakTracker([rows, *inner.parameters(), *outer.parameters()]) as tracker:
        output = FrozenFeedForward(inner, "gelu", outer)(rows)
        assert tracker.live_bytes == output.nbytes
    # Besides the output: the hidden activation of a chunk, its activated copy and its part of the output.
    assert tracker.peak_bytes <= output.nbytes + small_chunks * 8 * (2 * HIDDEN + WIDTH)


def test_frozen_linear_layer_keeps_no_input_for_the_backward_pass() -> None:
    inner, _ = layers()
    rows = random(9, WIDTH).requires_grad_() * 1
    held = weakref.ref(rows)
    output = frozen_linear(rows, inner)
    del rows
    assert output.requires_grad and held() is None
