"""Models of one modality: a fine-tuned encoder, or prompts in a frozen one."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import trainable_copy
from nas.models.encoders.layers import KeysValues
from nas.models.fusion.base import PROMPT_STANDARD_DEVIATION, Features, FusionModel, classify
from nas.models.fusion.joint_attention import encoded, joint_bias, with_prompts
from nas.search.space import MODALITIES, Architecture


class OneEncoder(FusionModel):
    """A linear classifier on the output of one encoder."""

    modality: ClassVar[Literal["image", "text"]]

    def build(self) -> None:
        self.classifier = nn.Linear(self.frozen.hidden_size, self.num_classes)

    @property
    def frozen(self) -> Encoder:
        """The frozen encoder of the modality."""
        return self.encoders[MODALITIES.index(self.modality)]

    def inputs(self, features: Features) -> tuple[Tensor, Tensor | None]:
        """Return the input of the modality, and its mask."""
        features = features.to_dtype_of(self.classifier)
        if self.modality == "image":
            return features.image_tokens, None
        return features.text_tokens, features.text_mask


class FineTuned(OneEncoder):
    """The encoder, fine-tuned with all its weights."""

    def build(self) -> None:
        super().build()
        self.add_module(f"{self.modality}_encoder", trainable_copy(self.frozen))

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        del architecture  # the family has only one
        encoder = getattr(self, f"{self.modality}_encoder")
        return classify(self.classifier, encoded(encoder, *self.inputs(features), whole=features.whole_layers))


class DeepPrompts(OneEncoder):
    """Prompts in every layer from `prompt_layer` on.

    The outputs of the prompts are never read, so they are not computed.
    """

    def build(self) -> None:
        super().build()
        self.prompts = nn.ParameterList(
            torch.randn(_length(self.architecture, index), self.frozen.hidden_size) * PROMPT_STANDARD_DEVIATION
            for index in range(self.frozen.num_layers - self.architecture.first_layer)
        )

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        architecture, encoder = architecture or self.architecture, self.frozen
        rows, mask = self.inputs(features)
        bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
        for index, prompts in enumerate(self._prompts(architecture)):
            learned = prompts[: _length(architecture, index)]
            if features.whole_layers:
                rows = self._run_whole(rows, mask, learned, architecture.first_layer + index)
                continue
            layer = encoder.layers[architecture.first_layer + index]
            shared = layer.keys_values(learned[None]).expand(rows.shape[0])
            context = KeysValues.concatenate([layer.keys_values(rows), shared])
            if layer is encoder.layers[-1]:  # the head reads no other outputs
                rows, bias = encoder.readout_rows(rows, mask), encoder.readout_bias(bias, mask)
            rows = layer.attend(rows, context, None if bias is None else pad(bias, (0, len(learned))))
        if features.whole_layers:
            rows = encoder.readout_rows(rows, mask)
        return classify(self.classifier, encoder.pool(encoder.finish(rows)))

    def _run_whole(self, rows: Tensor, mask: Tensor | None, learned: Tensor, index: int) -> Tensor:
        """Run a layer of transformers over data and prompts, and return its outputs of the data."""
        bias = joint_bias(self.frozen, rows, mask, further=learned.shape[0])
        output = self.frozen.run(with_prompts(rows, learned), bias, start=index, stop=index + 1, whole=True)
        return output[:, : rows.shape[1]]

    def _prompts(self, architecture: Architecture) -> list[nn.Parameter]:
        """Return the prompts of the layers that a slice uses."""
        return list(self.prompts)[architecture.first_layer - self.architecture.first_layer :]

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        return [*self._prompts(architecture), *self.classifier.parameters()]

    def source_of(self, name: str, architecture: Architecture) -> str:
        module, _, index = name.partition(".")
        if module != "prompts":
            return name
        return f"prompts.{int(index) + len(self.prompts) - len(self._prompts(architecture))}"


def _length(architecture: Architecture, index: int) -> int:
    """Return the number of prompts of a layer, counted from the first one with prompts."""
    return architecture.value_at("prompts", index)[0]
