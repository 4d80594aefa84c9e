"""The conversion of DINOv2 from an ONNX file finds every weight, also those that the exporter renamed."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from benchmarks.suite.dinov2 import convert, difference_to_graph, weights_of
from nas.common.errors import EncoderError
from nas.models.encoders.checkpoints import load_encoder
from nas.models.encoders.pretrained import load_image_processor

WIDTH, LAYERS = 64, 2
LINEAR = ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense")
NAMES = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}


def random_model() -> Dinov2Model:
    """Return a small model with random weights, also where transformers starts with ones or zeros."""
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=1, image_size=70)
    model: Dinov2Model = Dinov2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
        torch.nn.init.zeros_(model.get_parameter("embeddings.mask_token"))
    return model


def exported(model: Dinov2Model, output: np.ndarray) -> onnx.ModelProto:
    """Return the weights as an exporter leaves them, in a graph whose last norm is a constant.

    Linear layers are MatMuls with transposed, nameless weights and named biases, in either order; the positions are
    operands of a Concat and a Reshape.
    """
    tensors: dict[str, np.ndarray] = {}
    nodes = []

    def linear(name: str, layer: Any, number: int) -> None:
        weight, product = f"onnx::MatMul_{number}", f"/{name}/MatMul_output_0"
        tensors[weight] = layer.weight.detach().numpy().T
        tensors[f"backbone.{name}.bias"] = layer.bias.detach().numpy()
        operands = [product, f"backbone.{name}.bias"][:: 1 if number % 2 else -1]
        rows = f"rows of {layer.in_features}"
        tensors[rows] = np.ones((1, layer.in_features), dtype=np.float32)
        nodes.append(helper.make_node("MatMul", [rows, weight], [product]))
        nodes.append(helper.make_node("Add", operands, [f"/{name}/Add_output_0"]))

    layers: Any = model.encoder.layer
    for index, layer in enumerate(layers):
        prefix, block = f"encoder.layer.{index}", layer.attention
        modules = (block.q_proj, block.k_proj, block.v_proj, block.o_proj, layer.mlp.fc1, layer.mlp.fc2)
        for number, (name, module) in enumerate(zip((*LINEAR, "mlp.fc1", "mlp.fc2"), modules, strict=True)):
            linear(f"{prefix}.{name}", module, 10 * index + number)
    for name, parameter in model.named_parameters():
        if not any(part in name for part in ("_proj", ".fc", "mask_token", "position_embeddings")):
            tensors[f"backbone.{name}"] = parameter.detach().numpy()
    positions = model.embeddings.position_embeddings.detach().numpy()
    tensors |= {"onnx::Concat_1": positions[:, :1], "onnx::Reshape_2": positions[:, 1:], "decoder.weight": np.ones(3)}
    tensors |= {"shape": np.array([1, 5, 5, WIDTH]), "rows": np.array([1, -1, WIDTH])}
    tensors["norm"] = output
    nodes += [
        helper.make_node("Reshape", ["onnx::Reshape_2", "shape"], ["grid"]),
        helper.make_node("Reshape", ["grid", "rows"], ["patches"]),
        helper.make_node("Concat", ["onnx::Concat_1", "patches"], ["positions"], axis=1),
        helper.make_node("Identity", ["norm"], ["last"]),
    ]
    graph = helper.make_graph(
        nodes,
        "vit",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 3, 28, 28])],
        [helper.make_tensor_value_info("positions", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=7)


def test_converted_encoder_computes_what_the_original_does(tmp_path: Path) -> None:
    """It loads without a missing key, here and in this project's adapter, at the size of its image processor too."""
    model = random_model()
    convert(exported(model, np.zeros(1, dtype=np.float32)), tmp_path, size=42)
    converted = Dinov2Model.from_pretrained(tmp_path).eval()
    assert converted.config.image_size == 70
    processor = load_image_processor(str(tmp_path))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (42, 42, 3), dtype=np.uint8))
    pixels = processor([picture], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 42, 42)
    expected = (np.asarray(picture) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(pixels[0].permute(1, 2, 0), expected, atol=1e-5)
    with torch.inference_mode():
        hidden = model(pixels).last_hidden_state
        assert torch.equal(converted(pixels).last_hidden_state, hidden)
        encoder = load_encoder(str(tmp_path), "image")
        rows = encoder.embed(pixels)
        assert rows.shape == (1, 10, WIDTH)


def test_difference_is_measured_at_the_last_norm_of_the_graph(tmp_path: Path) -> None:
    """The graph's values are those of the original plus 0.25 in one place, for the pixels that the check draws."""
    model = random_model()
    pixels = np.random.default_rng(0).standard_normal((2, 3, 28, 28), dtype=np.float32)
    with torch.inference_mode():
        hidden = model(torch.from_numpy(pixels)).last_hidden_state.numpy().copy()
    convert(exported(model, hidden), tmp_path)
    assert difference_to_graph(exported(model, hidden), tmp_path, "last") < 1e-5
    hidden[1, 2, 3] += 0.25
    assert difference_to_graph(exported(model, hidden), tmp_path, "last") == pytest.approx(0.25, abs=1e-5)


def test_graph_without_a_weight_is_refused(tmp_path: Path) -> None:
    """So is one without positions, and a size that patches do not divide."""
    graph = exported(random_model(), np.zeros(1, dtype=np.float32))
    with pytest.raises(EncoderError, match="size 100: expected a multiple of 14"):
        convert(graph, tmp_path, size=100)
    lacking = onnx.ModelProto()
    lacking.CopyFrom(graph)
    for tensor in list(lacking.graph.initializer):
        if tensor.name == "backbone.layernorm.bias":
            lacking.graph.initializer.remove(tensor)
    with pytest.raises(EncoderError, match=r"'missing_keys': \['layernorm\.bias'\]"):
        convert(lacking, tmp_path)
    for node in list(lacking.graph.node):
        if node.op_type == "Concat":
            lacking.graph.node.remove(node)
    with pytest.raises(EncoderError, match="no position embeddings of width 64"):
        weights_of(lacking)
