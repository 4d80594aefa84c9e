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
from nas.models.fusion.base import Features
from nas.models.fusion.blind_prompt.architecture import BlindPromptArchitecture
from nas.models.fusion.joint_attention import joint_bias, with_prompts
from nas.models.fusion.prompt_fuse.model import PromptFuse


class BlindPrompt(PromptFuse):
    """Prompts that the data does not attend to, and a linear classifier on their outputs."""

    architecture_class = BlindPromptArchitecture

    def _read(self, features: Features, image: Tensor, prompts: Tensor) -> Tensor:
        text, mask = features.text_tokens, features.text_mask
        encoder, data = self.encoders[1], torch.cat([text, image], dim=1)
        bias = joint_bias(encoder, text, mask, further=image.shape[1])
        seen = None if mask is None else pad(padding_bias(mask, text.dtype), (0, image.shape[1] + prompts.shape[0]))
        if features.whole_layers:
            return self._read_whole(with_prompts(data, prompts), bias, seen, prompts.shape[0])
        rows = prompts.expand(data.shape[0], -1, -1)
        for layer in encoder.layers:
            context = layer.keys_values(data)
            rows = layer.attend(rows, KeysValues.concatenate([context, layer.keys_values(rows)]), seen)
            if layer is not encoder.layers[-1]:
                data = layer.attend(data, context, bias)
        return encoder.finish(rows).mean(dim=1)

    def _read_whole(self, rows: Tensor, bias: Tensor | None, seen: Tensor | None, further: int) -> Tensor:
        """Compute the same with whole layers of transformers over data and prompts, (B, R + E, D).

        Args:
            rows: The data tokens, and the prompts after them.
            bias: The bias of the data tokens over each other, or None.
            seen: The bias of the prompts over all tokens, or None.
            further: The number of prompts E.
        """
        encoder, total = self.encoders[1], rows.shape[1]
        data = total - further
        own = rows.new_zeros(1, 1, data, data) if bias is None else bias.expand(-1, -1, data, -1)
        own = pad(own, (0, further), value=float("-inf"))  # no data token attends to a prompt
        below = rows.new_zeros(1, 1, further, total) if seen is None else seen.expand(-1, -1, further, -1)
        shape = torch.broadcast_shapes(own.shape[:2], below.shape[:2])
        whole = torch.cat([own.expand(*shape, -1, -1), below.expand(*shape, -1, -1)], dim=2)
        rows = encoder.run(rows, whole, start=0, stop=encoder.num_layers, whole=True)
        return encoder.finish(rows[:, data:]).mean(dim=1)
