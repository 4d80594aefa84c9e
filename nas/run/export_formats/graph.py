"""An exported model as one graph of operations, for batches of any size and texts of any length up to the longest."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from nas.models.classifier import FusionForClassification


class InputBatch(NamedTuple):
    """The inputs of a model; the names are those of the graph's inputs, whatever the family reads.

    Args:
        pixel_values: (B, 3, height, width), float32.
        input_ids: (B, T), int64.
        attention_mask: (B, T), int64, 1 where there is a token.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor


class LogitsModel(nn.Module):
    """A classifier whose output is the logits alone.

    Args:
        model: The classifier.
    """

    def __init__(self, model: FusionForClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits, (B, C); see `InputBatch`."""
        # Given here, because the configuration may ask for other outputs.
        options = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}
        logits: Tensor = self.model(pixel_values, input_ids, attention_mask, **options).logits
        return logits


def trace(model: FusionForClassification, image_shape: tuple[int, ...], longest: int) -> ExportedProgram:
    """Record the operations of a model; all values that depend on a batch stay operations of the graph.

    While it is recorded, the model runs whole layers of transformers: the shortcuts of the fusion models read the
    lengths of the texts, which would become constants.

    Args:
        model: The classifier, on the CPU.
        image_shape: The shape of an image, (3, height, width), which is fixed.
        longest: The largest number of tokens of a text.
    """
    tokens = min(longest, 4)
    example = InputBatch(
        torch.zeros(2, *image_shape, dtype=model.dtype),
        torch.zeros(2, tokens, dtype=torch.int64),
        torch.ones(2, tokens, dtype=torch.int64),
    )
    batch = Dim("batch", min=1)
    texts = {0: batch, 1: Dim("length", min=1, max=longest)} if longest > 1 else {0: batch}
    shapes = dict(zip(InputBatch._fields, ({0: batch}, texts, texts), strict=True))
    with torch.no_grad():
        program = torch.export.export(LogitsModel(model).eval(), example, dynamic_shapes=shapes)
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program
