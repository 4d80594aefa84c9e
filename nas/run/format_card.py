"""The part of a model card about files of other formats: how they compare, and how they are used on their own."""

from collections.abc import Mapping
from typing import Any

from nas.models.classifier import MULTI_LABEL
from nas.run.tables import markdown_table

_TITLES = {"onnx": "ONNX", "torch_export": "torch.export"}

FORMATS_HEADING = "\n## Other formats\n"
"""The heading with its empty line, from which on a model card is about files of other formats."""

_INTRODUCTION = """
Files that hold the same model and need neither this package nor its code. The logits of each were compared with those
of the model. Times are the shortest of several calls on the machine that wrote the file (threads: {threads}), from
pixel values and token ids to logits.
"""

_ONNX = """
### ONNX

`pip install onnxruntime transformers pillow`; PyTorch is not needed. Inputs: `pixel_values` (batch, 3, height, width),
float32; `input_ids` and `attention_mask` (batch, length), int64, with a length of at most {max_text_tokens}. Output:
`logits` (batch, {classes}).

```python
import json

import numpy as np
import onnxruntime
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer

folder = "this folder"
session = onnxruntime.InferenceSession(f"{{folder}}/model.onnx")
pictures = [Image.open("picture.png").convert("RGB")]
process, tokenize = AutoImageProcessor.from_pretrained(folder, backend="pil"), AutoTokenizer.from_pretrained(folder)
values = process(pictures, return_tensors="np")
tokens = tokenize(["a text"], padding=True, truncation=True, return_tensors="np")
inputs = {{entry.name: {{**values, **tokens}}[entry.name] for entry in session.get_inputs()}}
logits = session.run(["logits"], inputs)[0]
{probabilities}
with open(f"{{folder}}/config.json", encoding="utf-8") as file:
    names = json.load(file)["id2label"]
print({{names[str(index)]: float(value) for index, value in enumerate(probabilities[0])}})
```"""

_PROGRAM = """
### torch.export

It needs PyTorch only; the inputs are those of ONNX, as tensors. Load such a file only from a source that you trust.

```python
import torch

program = torch.export.load("this folder/model.pt2").module()
logits = program(pixel_values, input_ids, attention_mask)
```"""

_SOFTMAX = """\
scores = np.exp(logits - logits.max(axis=1, keepdims=True))
probabilities = scores / scores.sum(axis=1, keepdims=True)"""
_SIGMOID = """\
probabilities = 1 / (1 + np.exp(-logits))  # a label is predicted above {threshold}"""


def format_sections(formats: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]) -> str:
    """Return Markdown about files of other formats, from its heading on.

    Args:
        formats: Facts about each file, by the name of the format; see `nas.run.export_formats.add`.
        config: The configuration of the model, as `config.json` holds it.
    """
    several = config.get("problem_type") == MULTI_LABEL
    values = {
        "max_text_tokens": config["max_text_tokens"],
        "classes": len(config["id2label"]),
        "probabilities": _SIGMOID.format(threshold=config["threshold"]) if several else _SOFTMAX,
    }
    threads = max(entry["threads"] for entry in formats.values())
    parts = [FORMATS_HEADING + _INTRODUCTION.format(threads=threads), _table(formats)]
    if "onnx" in formats:
        parts.append(_ONNX.format(**values))
    if "torch_export" in formats:
        parts.append(_PROGRAM)
    return "\n".join(parts) + "\n"


def _table(formats: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, entry in formats.items():
        for size, seconds in entry["seconds"].items():
            rows.append(
                [
                    f"{_TITLES[name]} (`{entry['file']}`)",
                    f"{entry['largest_difference']:.1e} ({entry['checked_with']})",
                    size,
                    f"{1e3 * seconds:.1f} ms",
                    f"{1e3 * entry['pytorch_seconds'][size]:.1f} ms",
                ]
            )
    return markdown_table(("format", "largest difference of a logit", "samples", "time", "PyTorch's time"), rows)
