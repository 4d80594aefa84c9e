"""The exported model as any classifier of transformers: what its users do with one, and the same numbers."""

import copy
import io
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import cross_entropy

from nas.models.classifier import FusionConfig, FusionForClassification
from nas.models.encoders.bert import BertEncoder
from nas.models.encoders.vit import ViTEncoder
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.pmf.model import PMF
from nas.models.fusion.pmf.reference import reference_logits
from nas.search.space.family_registry import FAMILIES
from tests.models.fusion import test_contract as contract
from tests.support.classifiers import CLASSES, LowRank, as_module, encoder_models, tiny_classifier
from tests.support.tiny import bert_model, raw_batch, vit_model
from tests.support.tiny_families import IMAGE_FAMILIES, TEXT_FAMILIES, TinyFamily

every_family = contract.every_family
_OF_EACH_KIND = ("mbt", "prompt_fuse", "maple", "vlmo")
"""Families of which each computes in another way; others are tried in the long tests."""
PMF_AND_SLOW_OTHERS = [
    pytest.param(name, marks=[] if name == "pmf" else pytest.mark.slow if name in _OF_EACH_KIND else pytest.mark.long)
    for name in FAMILIES
]


def classifier(family: str, dtype: torch.dtype = torch.float64) -> FusionForClassification:
    return tiny_classifier(contract.middling(family), dtype=dtype)


def straightforward(model: FusionForClassification, family: str, *batch: Tensor) -> Tensor:
    """Return the logits by the definition of the family, from the layers of transformers."""
    logits: Tensor = contract.ORACLES[family](model.fusion, *encoder_models(model), *batch)
    return logits


def assert_equal(got: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


def gradients(model: nn.Module, logits: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.autograd.backward(cross_entropy(logits, torch.arange(len(logits)) % CLASSES))
    return {name: entry.grad.clone() for name, entry in model.named_parameters() if entry.grad is not None}


# Traced models


def export(model: nn.Module, *, strict: bool) -> Any:
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=1, max=20)
    shapes = {"pixel_values": {0: batch}, "input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}}
    return torch.export.export(model, raw_batch(), strict=strict, dynamic_shapes=shapes).module()


OTHER_BATCHES = [raw_batch(3, 11, seed=5), raw_batch(1, 4, seed=6), raw_batch(6, 20, seed=7)]


def assert_equal_on_other_batches(traced: Callable[..., Any], model: nn.Module) -> None:
    for batch in OTHER_BATCHES:
        with torch.no_grad():
            expected, got = model(*batch).logits, traced(*batch)
        assert_equal(got if isinstance(got, Tensor) else got["logits"], expected)


def test_exported_program_of_torch_equals_the_model_for_other_batches_lengths_and_masks() -> None:
    model = classifier("pmf")
    assert_equal_on_other_batches(export(model, strict=False), model)


@pytest.mark.long
@pytest.mark.parametrize("strict", [False, True])
@every_family
def test_exported_program_of_every_family_equals_the_model(family: str, strict: bool) -> None:
    model = classifier(family)
    assert_equal_on_other_batches(export(model, strict=strict), model)


PAIRS = [
    *((image, TEXT_FAMILIES[0]) for image in IMAGE_FAMILIES),
    *((IMAGE_FAMILIES[0], text) for text in TEXT_FAMILIES),
]
every_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0]}, {pair[1]}")


def pmf_of(pair: tuple[TinyFamily, TinyFamily]) -> FusionForClassification:
    image, text = pair
    models = image.model(3, 24, torch.float64), text.model(3, 16, torch.float64)
    return tiny_classifier(
        PMFArchitecture(1, 2, 1, 3, 5), pair=(image.encoder(models[0]), text.encoder(models[1]))
    ).double()


@pytest.mark.long
@every_pair
def test_exported_program_of_every_encoder_family_equals_the_model(pair: tuple[TinyFamily, TinyFamily]) -> None:
    model = pmf_of(pair)
    assert_equal_on_other_batches(export(model, strict=False), model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", PMF_AND_SLOW_OTHERS)
def test_trace_equals_the_model_on_other_batches(family: str) -> None:
    model = classifier(family)
    assert_equal_on_other_batches(torch.jit.trace(model, raw_batch(), strict=False, check_trace=False), model)


@pytest.mark.slow
def test_graph_of_operations_equals_the_model_on_another_mask() -> None:
    model = classifier("pmf")
    graph = make_fx(lambda *batch: model(*batch).logits)(*raw_batch())
    batch = raw_batch(seed=3)
    assert_equal(graph(*batch), model(*batch).logits)


@pytest.mark.parametrize("family", PMF_AND_SLOW_OTHERS)
def test_vmap_over_samples_equals_the_batch(family: str) -> None:
    model, batch = classifier(family), raw_batch()
    logits = torch.vmap(lambda *sample: model(*(entry[None] for entry in sample)).logits[0])(*batch)
    assert_equal(logits, model(*batch).logits)


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=pytest.mark.long) for name in ("eager", "aot_eager", "inductor")]
)
def test_compiled_model_equals_the_model_in_inference_and_training_with_few_compilations(backend: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    if backend == "inductor":  # the default; one layer each, because every one is compiled by a C++ compiler
        pair = ViTEncoder(vit_model(1, dtype=torch.float32)), BertEncoder(bert_model(1, dtype=torch.float32))
        model = tiny_classifier(PMFArchitecture(0, 2, 1, 1, 4), dtype=torch.float32, pair=pair)
    else:
        model = classifier("pmf", torch.float32)
    compiled: Any = torch.compile(model, backend=backend)
    for seed, (size, length) in enumerate([(5, 7), (3, 11), (8, 5), (2, 9), (6, 12)]):
        pixels, ids, mask = raw_batch(size, length, seed)
        with torch.no_grad():
            got, expected = compiled(pixels.float(), ids, mask), model(pixels.float(), ids, mask)
        assert_equal(got.logits, expected.logits, 1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3
    for seed, (size, length) in enumerate([(5, 7), (3, 11), (8, 5)]):
        pixels, ids, mask = raw_batch(size, length, seed)
        got_gradients = gradients(model, compiled(pixels.float(), ids, mask).logits)
        for name, gradient in gradients(model, model(pixels.float(), ids, mask).logits).items():
            assert_equal(got_gradients[name], gradient, 1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 6


@pytest.mark.filterwarnings("ignore")
def test_export_to_onnx_by_torchscript_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier("pmf")
    monkeypatch.setattr("torch.onnx._internal.exporter._flags._is_onnx_exporting", True)
    with pytest.raises(RuntimeError, match=r"^export to ONNX by TorchScript is not supported; expected torch\.onnx"):
        torch.jit.trace(model, raw_batch(), strict=False, check_trace=False)


# Gradients


@every_family
def test_inference_equals_the_straightforward_model(family: str) -> None:
    model, batch = classifier(family), raw_batch()
    with torch.inference_mode():
        fast = model(*batch).logits
        assert not model._needs_whole_layers(*batch)
    assert_equal(fast, straightforward(model, family, *batch))


@every_family
def test_unfrozen_encoders_have_the_gradients_of_the_straightforward_model(family: str) -> None:
    model, batch = classifier(family), raw_batch()
    model.requires_grad_(True)
    model.train()
    logits = model(*batch).logits
    got = gradients(model, logits)
    expected_logits = straightforward(model, family, *batch)
    expected = gradients(model, expected_logits)
    assert_equal(logits, expected_logits)
    assert set(got) == set(expected)
    for name, gradient in expected.items():
        assert_equal(got[name], gradient)


@pytest.mark.parametrize(
    "names",
    [
        ("image_encoder.model.layers.0.",),
        ("text_encoder.model.embeddings.",),
        ("text_encoder.model.encoder.layer.2.output.dense.weight",),
        ("image_encoder.model.layers.3.mlp.fc1.bias", "text_encoder.model.encoder.layer.2.attention.self.key.bias"),
        ("image_encoder.model.layernorm.",),
    ],
)
def test_any_unfrozen_weight_gets_its_gradient(names: tuple[str, ...]) -> None:
    model, batch = classifier("pmf"), raw_batch()
    thawed = [entry for name, entry in model.named_parameters() if name.startswith(names)]
    assert thawed
    for entry in thawed:
        entry.requires_grad_(True)
    got = gradients(model, model(*batch).logits)
    expected = gradients(model, straightforward(model, "pmf", *batch))
    assert set(got) == set(expected)
    for name, gradient in expected.items():
        assert_equal(got[name], gradient)


@pytest.mark.slow
@every_pair
def test_unfrozen_encoders_of_every_family_have_the_gradients_of_the_reference(
    pair: tuple[TinyFamily, TinyFamily],
) -> None:
    model = pmf_of(pair)
    (pixels, _), (ids, mask) = pair[0].batch(), pair[1].batch()
    model.requires_grad_(True)
    got = gradients(model, model(pixels, ids, mask).logits)
    expected = gradients(model, reference_logits(cast(PMF, model.fusion), pixels, ids, mask))
    assert set(got) == set(expected)
    for name, gradient in expected.items():
        assert_equal(got[name], gradient)


def test_weights_of_a_fusing_layer_unfrozen_in_a_fusion_model_get_gradients() -> None:
    model = cast(PMF, classifier("pmf").fusion)
    weights = list(model.encoders[1].layers[-1].module.parameters())
    for entry in weights:
        entry.requires_grad_(True)
    got = torch.autograd.grad(contract.logits_of(model, *raw_batch()).sum(), weights, allow_unused=True)
    expected = torch.autograd.grad(reference_logits(model, *raw_batch()).sum(), weights, allow_unused=True)
    for gradient, other in zip(got, expected, strict=True):
        assert gradient is not None and other is not None
        assert_equal(gradient, other)


@pytest.mark.parametrize("family", ["pmf", "vpt", "blind_prompt", "late_concat"])
def test_pixels_get_the_gradient_of_the_straightforward_model(family: str) -> None:
    model, (pixels, *texts) = classifier(family), raw_batch()
    pixels.requires_grad_(True)
    (got,) = torch.autograd.grad(model(pixels, *texts).logits.sum(), pixels)
    (expected,) = torch.autograd.grad(straightforward(model, family, pixels, *texts).sum(), pixels)
    assert_equal(got, expected)


def test_graph_can_be_used_twice_and_differentiated_twice() -> None:
    model, batch = classifier("pmf"), raw_batch()
    loss = model(*batch, labels=torch.arange(5)).loss
    weight = cast(PMF, model.fusion).image_classifier.weight
    first = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    second = torch.autograd.grad(loss, weight, create_graph=True)[0]
    assert_equal(first, second)
    assert torch.autograd.grad(second.square().sum(), weight)[0].abs().max() > 0


@pytest.mark.parametrize("records", [True, False])
@pytest.mark.parametrize("owner", ["image_encoder.model.layers.3.attention", "fusion.fusion_layers.0.image_to_text"])
def test_adapters_around_linear_layers_count(owner: str, records: bool) -> None:
    model, batch = classifier("pmf"), raw_batch()
    block: Any = model.get_submodule(owner)
    name = "q_proj" if "attention" in owner else "inner"
    layer = getattr(block, name)
    adapter = LowRank(layer)
    setattr(block, name, adapter)
    with torch.set_grad_enabled(records):
        got = model(*batch).logits
    if records:
        torch.autograd.backward(got.sum())
        assert all(entry.grad is not None and entry.grad.abs().max() > 0 for entry in adapter.up.parameters())
    with torch.no_grad():  # the same change of the weight itself
        setattr(block, name, layer)
        before = model(*batch).logits
        layer.weight.add_(adapter.up.weight @ adapter.down.weight)
        assert_equal(got.detach(), model(*batch).logits)
    assert float((before - got.detach()).abs().max()) > 1e-6


@pytest.mark.parametrize("name", ["image_encoder.model.layers.3", "text_encoder.model.encoder.layer.0.output.dense"])
def test_hooks_of_layers_run_and_may_change_their_outputs(name: str) -> None:
    model, batch = classifier("pmf"), raw_batch()
    with torch.inference_mode():
        before = model(*batch).logits
        seen: list[int] = []
        handle = model.get_submodule(name).register_forward_hook(lambda module, given, output: seen.append(1))
        assert_equal(model(*batch).logits, before)
        handle.remove()
        handle = model.get_submodule(name).register_forward_hook(lambda module, given, output: output * 1.5)
        assert float((model(*batch).logits - before).abs().max()) > 1e-6
        handle.remove()
        assert torch.equal(model(*batch).logits, before)
    assert seen


@pytest.mark.parametrize("family", ["pmf", "late_concat"])
def test_gradient_checkpointing_changes_no_gradient(family: str) -> None:
    model, batch = classifier(family), raw_batch()
    model.requires_grad_(True)
    expected = gradients(model, model(*batch).logits)
    model.gradient_checkpointing_enable()  # type: ignore[no-untyped-call]
    got = gradients(model.train(), model(*batch).logits)
    assert set(got) == set(expected)
    for name, gradient in expected.items():
        assert_equal(got[name], gradient)


@every_family
def test_training_mode_turns_no_dropout_on_in_encoders(family: str) -> None:
    model, batch = classifier(family), raw_batch()
    expected = model(*batch).logits
    assert_equal(model.train()(*batch).logits, expected)
    if family == "pmf":
        model.get_submodule("text_encoder.model").train()
        assert float((model(*batch).logits - expected).abs().max()) > 1e-6
        with torch.no_grad():
            assert float((model(*batch).logits - expected).abs().max()) > 1e-6


# Precision


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)], ids=str)
@every_family
def test_half_precision_changes_logits_by_rounding(family: str, dtype: torch.dtype, tolerance: float) -> None:
    model, (pixels, ids, mask) = classifier(family, torch.float32), raw_batch()
    pixels, labels = pixels.float(), torch.arange(5)
    expected = model(pixels, ids, mask).logits.detach()
    half: Any = as_module(copy.deepcopy(model)).to(dtype)
    with torch.no_grad():
        inferred = half(pixels, ids, mask).logits
    output = half(pixels, ids, mask, labels=labels)
    if output.loss.requires_grad:  # unless nothing is trained
        output.loss.backward()
    for logits in (inferred, output.logits):
        assert logits.dtype == dtype
        assert_equal(logits.float(), expected, tolerance)
    with torch.autocast("cpu", dtype):
        with torch.no_grad():
            assert_equal(model(pixels, ids, mask).logits.float(), expected, tolerance)
        loss = model(pixels, ids, mask, labels=labels).loss
    if loss.requires_grad:
        loss.backward()
    assert all(entry.grad.isfinite().all() for entry in model.parameters() if entry.grad is not None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_model_is_loaded_in_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    model, (pixels, ids, mask) = classifier("pmf", torch.float32), raw_batch()
    model.save_pretrained(tmp_path)
    loaded = FusionForClassification.from_pretrained(tmp_path, dtype=dtype)
    with torch.no_grad():
        logits, expected = loaded(pixels, ids, mask).logits, model(pixels.float(), ids, mask).logits
    assert logits.dtype == dtype and {entry.dtype for entry in loaded.parameters()} == {dtype}
    assert_equal(logits.float(), expected, 0.02)


# Masks


def shifted(batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch with the padding of each text before it."""
    pixels, ids, mask = batch
    lengths = mask.sum(dim=1).tolist()
    rolled = [
        torch.stack([row.roll(ids.shape[1] - length) for row, length in zip(rows, lengths, strict=True)])
        for rows in (ids, mask)
    ]
    return pixels, rolled[0], rolled[1]


@every_family
def test_padding_before_texts_is_moved_behind_them(family: str) -> None:
    model, batch = classifier(family), raw_batch()
    with torch.no_grad():
        expected = model(*batch).logits
        assert_equal(model(*shifted(batch)).logits, expected)
    assert_equal(model(*shifted(batch)).logits, expected)


@pytest.mark.parametrize("text", TEXT_FAMILIES, ids=str)
def test_padding_before_texts_is_moved_for_every_text_family(text: TinyFamily) -> None:
    model, (ids, mask) = pmf_of((IMAGE_FAMILIES[0], text)), text.batch()
    batch = raw_batch()[0], ids, mask
    with torch.no_grad():
        assert_equal(model(*shifted(batch)).logits, model(*batch).logits)


def test_mask_may_hide_single_tokens_as_in_transformers() -> None:
    model, (pixels, ids, mask) = classifier("pmf"), raw_batch()
    mask[0, 2] = mask[0, 4] = False
    expected = straightforward(model, "pmf", pixels, ids, mask)
    with torch.no_grad():
        assert_equal(model(pixels, ids, mask).logits, expected)
    assert_equal(model(pixels, ids, mask).logits, expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32, torch.float64], ids=str)
def test_masks_of_numbers_equal_those_of_truth_values(dtype: torch.dtype) -> None:
    model, (pixels, ids, mask) = classifier("pmf"), raw_batch()
    assert torch.equal(model(pixels, ids, mask.to(dtype)).logits, model(pixels, ids, mask).logits)


PIXELS, IDS, MASK = raw_batch()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_mask": MASK & (torch.arange(5) != 3)[:, None]}, "attention_mask: no token in row 3"),
        ({"attention_mask": torch.where(MASK, 0.0, float("-inf"))}, "attention_mask: wrong value in row .*expected 1"),
        ({"attention_mask": MASK[:, :-1]}, r"attention_mask: wrong shape; .*\(5, 7\), got \(5, 6\)"),
        ({"attention_mask": MASK[:, None, None]}, "attention_mask: wrong shape"),
        ({"input_ids": torch.ones(5, 21, dtype=torch.int64)}, "attention_mask: wrong shape"),
        ({"input_ids": torch.ones(5, 21, dtype=torch.int64), "attention_mask": None}, "at most 20 per text, got 21"),
        ({"input_ids": IDS.index_fill(1, torch.tensor([4]), 50)}, "row 0, position 4; expected 0 to 49, got 50"),
        ({"input_ids": IDS[:3], "attention_mask": MASK[:3]}, "as many images as texts, got 5 and 3"),
        ({"input_ids": IDS[:, :0], "attention_mask": None}, "at least one token"),
        ({"input_ids": IDS[0], "attention_mask": None}, "input_ids: wrong shape"),
        ({"input_ids": IDS.float()}, "input_ids: expected integers"),
        ({"input_ids": None}, "input_ids: missing"),
        ({"pixel_values": None}, "pixel_values: missing"),
        ({"pixel_values": PIXELS[0]}, "pixel_values: wrong shape"),
        ({"pixel_values": (PIXELS * 50).to(torch.uint8)}, "expected normalized floating-point values"),
        ({"token_type_ids": torch.ones_like(IDS)}, "token_type_ids: expected only zeros"),
        ({"inputs_embeds": torch.zeros(5, 7, 16)}, "inputs_embeds: not supported"),
        ({"output_attentions": True}, "output_attentions: not supported"),
        ({"output_hidden_states": True}, "output_hidden_states: not supported"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, "labels: wrong shape"),
    ],
)
def test_inputs_that_the_model_cannot_read_are_one_error(change: dict[str, Any], message: str) -> None:
    model = classifier("pmf")
    given = {"pixel_values": PIXELS, "input_ids": IDS, "attention_mask": MASK, **change}
    with pytest.raises(ValueError, match=message) as caught:
        model(**given)
    assert "\n" not in str(caught.value)


def test_unknown_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="pixels: unknown argument; expected pixel_values"):
        classifier("pmf")(pixels=PIXELS, input_ids=IDS)


@every_family
def test_empty_batch_has_empty_logits(family: str) -> None:
    assert classifier(family)(PIXELS[:0], IDS[:0], MASK[:0]).logits.shape == (0, CLASSES)


# As a model of transformers


@every_family
def test_output_of_a_tokenizer_is_read_as_by_any_model(family: str) -> None:
    model = classifier(family)
    tokens = {"input_ids": IDS, "token_type_ids": torch.zeros_like(IDS), "attention_mask": MASK.long()}
    output = model(**tokens, pixel_values=PIXELS, output_hidden_states=None, output_attentions=False)
    as_tuple = model(**tokens, pixel_values=PIXELS, return_dict=False, labels=torch.arange(5))
    assert torch.equal(as_tuple[1], output.logits) and as_tuple[0].ndim == 0
    model.config.return_dict = False
    assert torch.equal(model(**tokens, pixel_values=PIXELS)[0], output.logits)


@pytest.mark.parametrize("family", ["image_only", "vpt", "text_only", "p_bert"])
def test_model_of_one_modality_needs_no_other(family: str) -> None:
    model = classifier(family)
    expected = model(PIXELS, IDS, MASK).logits
    given = {"pixel_values": PIXELS} if contract.reads_images(family) else {"input_ids": IDS, "attention_mask": MASK}
    assert torch.equal(model(**given).logits, expected)


def test_labels_of_several_classes_may_be_integers() -> None:
    model = classifier("pmf", torch.float32)
    model.config.problem_type = "multi_label_classification"
    labels = torch.eye(5)
    losses = [model(PIXELS, IDS, MASK, labels=given).loss for given in (labels, labels.long(), labels.bool())]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("family", PMF_AND_SLOW_OTHERS)
def test_copies_and_saved_models_give_the_same_logits(family: str) -> None:
    model = classifier(family)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = [
        copy.copy(model),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    ]
    fresh: Any = as_module(FusionForClassification(cast(FusionConfig, copy.deepcopy(model.config)))).double().eval()
    fresh.load_state_dict(model.state_dict())
    with torch.inference_mode():
        expected = model(PIXELS, IDS, MASK).logits
        for other in (*copies, fresh):
            assert_equal(other(PIXELS, IDS, MASK).logits, expected, 1e-12)
            assert not other._needs_whole_layers(PIXELS, IDS, MASK)


@every_family
def test_input_embeddings_are_those_of_the_texts_or_else_of_the_images(family: str) -> None:
    model = classifier(family)
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding) is contract.reads_texts(family)
    assert any(embeddings is module for module in model.modules())
    with pytest.raises(NotImplementedError, match="cannot be resized"):
        model.resize_token_embeddings(60)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("family", PMF_AND_SLOW_OTHERS)
def test_dynamically_quantized_model_computes_with_quantized_weights(family: str) -> None:
    model, pixels = classifier(family, torch.float32), PIXELS.float()
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        difference = float((quantized(pixels, IDS, MASK).logits - model(pixels, IDS, MASK).logits).abs().max())
    assert 1e-5 < difference < 0.2


@every_family
def test_meta_device_gives_the_shape_of_the_logits(family: str) -> None:
    logits = as_module(classifier(family)).to("meta")(PIXELS.to("meta"), IDS.to("meta"), MASK.to("meta")).logits
    assert logits.is_meta and logits.shape == (5, CLASSES)


def replicated(module: nn.Module) -> Any:
    """Copy a module as `nn.DataParallel` does, whose replicas need several GPUs."""
    replica = module._replicate_for_data_parallel()
    replica._former_parameters = {}
    for name, child in module.named_children():
        setattr(replica, name, replicated(child))
    for name, parameter in module._parameters.items():
        setattr(replica, name, None if parameter is None else parameter * 1.0)
        replica._former_parameters[name] = getattr(replica, name)
    return replica


@every_family
def test_replica_of_data_parallel_uses_its_own_weights(family: str) -> None:
    model = classifier(family)
    replica = replicated(model)
    expected = model(PIXELS, IDS, MASK).logits
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert_equal(replica(PIXELS, IDS, MASK).logits, expected)


def test_calls_from_several_threads_do_not_disturb_each_other() -> None:
    model = classifier("pmf")
    batches = [raw_batch(3, length, seed=length) for length in (4, 7, 11, 15)]
    with torch.inference_mode():
        expected = [model(*batch).logits for batch in batches]
    failures: list[int] = []

    def call(index: int, records: bool) -> None:
        for _ in range(5):
            with torch.set_grad_enabled(records):
                if not torch.allclose(model(*batches[index]).logits, expected[index], rtol=0, atol=1e-10):
                    failures.append(index)

    threads = [threading.Thread(target=call, args=(index, index % 2 == 0)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
