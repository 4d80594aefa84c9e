"""BlindPrompt (Liang et al., Findings of ACL 2022): PromptFuse with prompts that the data does not attend to.

The prompts attend to everything, text and image tokens only to each other, so that the prompts do not disturb the data.
CLS then does not depend on the prompts, so the classifier reads the mean of the outputs of the prompts. Data tokens are
computed separately from the prompts, which is exact, because none of them attends to a prompt. Where both encoders have
the same hidden size, they depend on no trained parameter, and a step keeps only their keys and values.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from nas.models.encoders.base import padding_bias
from nas.models.encoders.layers import KeysValues
from nas.models.fusion.blind_prompt.architecture import BlindPromptArchitecture
from nas.models.fusion.joint_attention import joint_bias
from nas.models.fusion.prompt_fuse.model import PromptFuse


class BlindPrompt(PromptFuse):
    """Prompts that the data does not attend to, and a linear classifier on their outputs."""

    architecture_class = BlindPromptArchitecture

    def _read(self, text: Tensor, mask: Tensor | None, image: Tensor, prompts: Tensor) -> Tensor:
        encoder, data = self.encoders[1], torch.cat([text, image], dim=1)
        bias = joint_bias(encoder, text, mask, further=image.shape[1])
        seen = None if mask is None else pad(padding_bias(mask, text.dtype), (0, image.shape[1] + len(prompts)))
        rows = prompts.expand(len(data), -1, -1)
        for layer in encoder.layers:
            context = layer.keys_values(data)
            rows = layer.attend(rows, KeysValues.concatenate([context, layer.keys_values(rows)]), seen)
            if layer is not encoder.layers[-1]:
                data = layer.attend(data, context, bias)
        return encoder.finish(rows).mean(dim=1)
