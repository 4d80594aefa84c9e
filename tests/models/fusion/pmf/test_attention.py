"""Every attention against plain attention over the concatenated keys and values of data and prompts, in float64."""

from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from nas.models.encoders.base import padding_bias
from nas.models.encoders.layers import KeysValues, Projections
from nas.models.fusion import data_attention as data_attention_module
from nas.models.fusion.data_attention import attention_with_logsumexp, data_attention
from nas.models.fusion.pmf import absorbed_attention as absorbed_module
from nas.models.fusion.pmf import joined_attention as joined_module
from nas.models.fusion.pmf.absorbed_attention import absorbed_attention, join_prompts, readout_tokens
from nas.models.fusion.pmf.joined_attention import joined_attention, known_attention
from nas.models.fusion.pmf.layer_input import DataReader, LayerInput, RowFunction
from nas.models.fusion.pmf.packing import PackedBatch
from tests.support.tiny import encoders

SAMPLES, ROWS, PROMPTS = 4, 7, 3
TOLERANCE = 1e-9

BIASES = ["no bias", "padding", "padding by head", "causal by head"]
READINGS = ["norm before", "nothing before", "norm of the layer before", "no bias in projections"]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask_of(kind: str) -> Tensor | None:
    if kind == "no bias":
        return None
    return torch.arange(ROWS)[None] < torch.tensor([ROWS, 2, 5, 1])[:, None]


def bias_of(kind: str, heads: int, rows: int) -> Tensor | None:
    """Return the bias of `rows` attending tokens over the data."""
    mask = mask_of(kind)
    if mask is None:
        return None
    padding = padding_bias(mask, torch.float64)
    if kind == "padding":
        return padding
    by_head = padding + random(SAMPLES, heads, rows, ROWS, seed=8)
    if kind == "padding by head":
        return by_head
    ahead = torch.arange(ROWS)[None] > torch.arange(rows)[:, None]
    return by_head.masked_fill(ahead, float("-inf"))


def plain_attention(
    queries: Tensor, data: KeysValues, prompts: KeysValues, bias: Tensor | None, scale: float
) -> Tensor:
    keys = torch.cat([data.keys, prompts.keys.expand(SAMPLES, -1, -1, -1)], dim=2)
    values = torch.cat([data.values, prompts.values.expand(SAMPLES, -1, -1, -1)], dim=2)
    if bias is not None:
        bias = torch.cat([bias, bias.new_zeros(*bias.shape[:3], prompts.keys.shape[2])], dim=3)
    return scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=scale)


@dataclass(frozen=True)
class Frozen:
    """Constant tokens and the frozen layer that reads them."""

    parts: Projections
    read: RowFunction
    rows: Tensor  # (N, D)
    layout: PackedBatch

    @property
    def reader(self) -> DataReader:
        return DataReader(self.parts, self.read, self.layout)

    @property
    def heads(self) -> int:
        return self.parts.num_heads

    def projected(self, rows: Tensor, which: str) -> Tensor:
        """(B, R, D) → (B, H, R, d)."""
        projection = getattr(self.parts, which)
        projected: Tensor = linear(rows, projection.weight, projection.bias).unflatten(2, (self.heads, -1))
        return projected.transpose(1, 2)

    def data(self, rows: Tensor) -> KeysValues:
        normalized = self.layout.unpack(self.read(rows))
        return KeysValues(self.projected(normalized, "key"), self.projected(normalized, "value"))

    def random(self, *shape: int, seed: int) -> Tensor:
        """(…, d)."""
        width = self.parts.query.in_features // self.heads
        return random(*shape, width, seed=seed).requires_grad_()

    def prompts(self, samples: int) -> KeysValues:
        shape = (samples, self.heads, PROMPTS)
        return KeysValues(self.random(*shape, seed=5), self.random(*shape, seed=6))


def frozen(reading: str, bias: str) -> Frozen:
    image, text = encoders()
    layers = image.layers if reading == "norm before" else text.layers
    parts, read = layers[1].projections, LayerInput(None, layers[1])
    if reading == "norm of the layer before":
        read = LayerInput(layers[0], layers[1])
    if reading == "no bias in projections":
        torch.manual_seed(0)
        query, key, value, output = (
            nn.Linear(16, 16, bias=False, dtype=torch.float64).requires_grad_(False) for _ in range(4)
        )
        parts = Projections(query, key, value, output, num_heads=2, scale=0.3)
    whole = random(SAMPLES, ROWS, parts.query.in_features, seed=1)
    layout = PackedBatch.of(whole, mask_of(bias))
    return Frozen(parts, read, layout.pack(whole), layout)


@pytest.fixture(params=[True, False], ids=["CPU kernels", "other kernels"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run both the code for CPUs and that for all other devices."""
    if not request.param:
        for module in (data_attention_module, joined_module):
            monkeypatch.setattr(module, "has_cpu_kernels", lambda device: False)


def assert_equal_with_gradients(got: Tensor, expected: Tensor, wanted: list[Tensor]) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)
    upstream = random(*expected.shape, seed=9)
    for one, other in zip(
        torch.autograd.grad(got, wanted, upstream, retain_graph=True),
        torch.autograd.grad(expected, wanted, upstream),
        strict=True,
    ):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("kind", BIASES)
def test_logsumexp_covers_all_scores(kind: str) -> None:
    queries, context = random(SAMPLES, 2, 5, 8), KeysValues(random(SAMPLES, 2, ROWS, 8, seed=1), random(4, 2, 7, 8))
    bias = bias_of(kind, 2, 5)
    output, logsumexp = attention_with_logsumexp(queries, context, bias, 0.3)
    scores = torch.einsum("bhrd,bhsd->bhrs", queries, context.keys) * 0.3 + (0 if bias is None else bias)
    torch.testing.assert_close(logsumexp, scores.exp().sum(dim=-1).log(), rtol=0, atol=TOLERANCE)
    expected = torch.einsum("bhrs,bhsd->bhrd", scores.softmax(dim=-1), context.values)
    torch.testing.assert_close(output, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("kernels")
def test_logsumexp_of_bfloat16_scores_is_float32() -> None:
    queries, keys = random(SAMPLES, 2, 5, 8).bfloat16(), random(SAMPLES, 2, ROWS, 8, seed=1).bfloat16()
    output, logsumexp = attention_with_logsumexp(queries, KeysValues(keys, keys), None, 0.3)
    scores = (queries.double() @ keys.double().transpose(2, 3)) * 0.3
    assert output.dtype == torch.bfloat16 and logsumexp.dtype == torch.float32
    torch.testing.assert_close(logsumexp.double(), scores.logsumexp(dim=-1), rtol=0, atol=0.02)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("is_shared", [True, False], ids=["shared prompts", "own prompts"])
@pytest.mark.parametrize("kind", BIASES)
def test_joined_attention_equals_plain_attention(kind: str, is_shared: bool) -> None:
    case = frozen("norm before", kind)
    rows = case.rows.clone().requires_grad_()
    # Heads are strided views, as in the encoders.
    queries, data = case.projected(case.layout.unpack(case.read(rows)), "query"), case.data(rows)
    prompts = case.prompts(1 if is_shared else SAMPLES)
    bias = bias_of(kind, case.heads, ROWS)
    got = joined_attention(queries, data, prompts.expand(SAMPLES), bias, case.parts.scale)
    expected = plain_attention(queries, data, prompts, bias, case.parts.scale)
    wanted = [rows, queries, data.keys, data.values, prompts.keys, prompts.values]
    assert_equal_with_gradients(got, expected, wanted)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("kind", BIASES)
def test_known_attention_equals_plain_attention(kind: str, reading: str) -> None:
    case = frozen(reading, kind)
    queries, data = case.projected(case.layout.unpack(case.read(case.rows)), "query"), case.data(case.rows)
    bias, prompts = bias_of(kind, case.heads, ROWS), case.prompts(SAMPLES)
    got = known_attention(
        attention_with_logsumexp(queries, data, bias, case.parts.scale),
        queries,
        prompts,
        tokens=case.rows,
        reader=case.reader,
    )
    expected = plain_attention(queries, data, prompts, bias, case.parts.scale)
    assert_equal_with_gradients(got, expected, [prompts.keys, prompts.values])


@pytest.mark.parametrize("own_count", [0, 1, 2], ids=["shared queries", "one own query", "two own queries"])
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("kind", BIASES)
def test_absorbed_attention_with_prompts_equals_plain_attention(
    kind: str, reading: str, own_count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absorbed_module, "_CHUNK_ROWS", 5)  # several chunks
    case = frozen(reading, kind)
    rows = case.rows.clone().requires_grad_()
    shared = case.random(1, case.heads, 2, seed=2)
    own = case.random(SAMPLES, case.heads, own_count, seed=3)
    own = own if own_count else own.detach()
    bias, prompts = bias_of(kind, case.heads, 2 + own_count), case.prompts(SAMPLES)
    queries = torch.cat([shared.expand(SAMPLES, -1, -1, -1), own], dim=2)
    output, logsumexp = absorbed_attention(
        shared,
        own,
        tokens=rows,
        normalized=case.layout.unpack(case.read(case.rows)),
        bias=bias,
        reader=case.reader,
    )
    got = join_prompts(output, logsumexp, queries, prompts, case.parts.scale)
    expected = plain_attention(queries, case.data(rows), prompts, bias, case.parts.scale)
    wanted = [shared, rows, prompts.keys, prompts.values, *[own][:own_count]]
    assert_equal_with_gradients(got, expected, wanted)


def test_shared_prompts_equal_repeated_prompts() -> None:
    case = frozen("norm before", "padding")
    output, logsumexp = case.random(SAMPLES, case.heads, 2, seed=2), random(SAMPLES, case.heads, 2).requires_grad_()
    queries, prompts = case.random(1, case.heads, 2, seed=3), case.prompts(1)
    got = join_prompts(output, logsumexp, queries, prompts, 0.3)
    repeated = join_prompts(output, logsumexp, queries.expand(SAMPLES, -1, -1, -1), prompts.expand(SAMPLES), 0.3)
    assert_equal_with_gradients(got, repeated, [output, logsumexp, queries, prompts.keys, prompts.values])


def test_absorbed_attention_over_constant_tokens_has_no_graph() -> None:
    case = frozen("norm before", "padding")
    shared = case.random(1, case.heads, 2, seed=2).detach()
    prompts = case.prompts(1)
    output, logsumexp = absorbed_attention(
        shared,
        case.random(SAMPLES, case.heads, 0, seed=3).detach(),
        tokens=case.rows,
        normalized=case.layout.unpack(case.read(case.rows)),
        bias=bias_of("padding", case.heads, 2),
        reader=case.reader,
    )
    assert not output.requires_grad and not logsumexp.requires_grad
    assert join_prompts(output, logsumexp, shared, prompts, 0.3).requires_grad


@pytest.mark.parametrize("which", ["first", "last"])
@pytest.mark.parametrize("reading", READINGS)
def test_readout_tokens_get_both_gradients(reading: str, which: Literal["first", "last"]) -> None:
    case = frozen(reading, "padding")
    rows = case.rows.clone().requires_grad_()
    places = case.layout.positions(which, rows.device)
    bias, prompts = bias_of("padding", case.heads, 3), case.prompts(SAMPLES)
    shared = case.random(1, case.heads, 2, seed=2)

    everything, some = readout_tokens(rows, places)
    own = case.projected(case.read(some), "query")
    output, logsumexp = absorbed_attention(
        shared,
        own,
        tokens=everything,
        normalized=case.layout.unpack(case.read(case.rows)),
        bias=bias,
        reader=case.reader,
    )
    queries = torch.cat([shared.expand(SAMPLES, -1, -1, -1), own], dim=2)
    got = join_prompts(output, logsumexp, queries, prompts, case.parts.scale)

    own = case.projected(case.read(rows[places][:, None]), "query")
    queries = torch.cat([shared.expand(SAMPLES, -1, -1, -1), own], dim=2)
    expected = plain_attention(queries, case.data(rows), prompts, bias, case.parts.scale)
    assert_equal_with_gradients(got, expected, [rows, shared, prompts.keys, prompts.values])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("which", [0, 1], ids=["image", "text"])
def test_stored_attention_equals_that_of_the_layer(which: int) -> None:
    encoder = encoders()[which]
    layer, mask = encoder.layers[1], mask_of("padding")
    rows = random(SAMPLES, ROWS, encoder.hidden_size)
    bias = encoder.data_bias(mask, ROWS, rows.dtype)
    stored = data_attention(layer, rows, bias)
    torch.testing.assert_close(
        layer.complete(rows, stored.attended), encoder.run(rows, bias, start=1, stop=2), rtol=0, atol=TOLERANCE
    )
    normalized = layer.normalize(rows)
    queries, context = layer.queries(normalized), layer.keys_values_of(normalized)
    assert bias is not None
    scores = queries @ context.keys.transpose(2, 3) * layer.projections.scale + bias
    output, logsumexp = stored.by_head(queries)
    torch.testing.assert_close(logsumexp, scores.logsumexp(dim=-1), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(output, scores.softmax(dim=-1) @ context.values, rtol=0, atol=TOLERANCE)
    assert stored.attended.shape == (SAMPLES, ROWS, encoder.hidden_size)
    assert stored.logsumexp.shape == (SAMPLES, ROWS, layer.projections.num_heads)
