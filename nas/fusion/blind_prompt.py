"""BlindPrompt (Liang et al., Findings of ACL 2022): PromptFuse with prompts that the data does not attend to.

The prompts attend to everything, text and image tokens only to each other, so that what the data says is not disturbed.
As CLS then knows nothing of the prompts, the classifier reads the mean of what the last layer makes of these. Where the
encoders' widths are the same, the data's rows depend on nothing that is trained.
"""

import torch
from torch import Tensor

from nas.families import BlindPromptArchitecture
from nas.fusion.joint import joint_bias, with_prompts
from nas.fusion.prompt_fuse import PromptFuse


class BlindPrompt(PromptFuse):
    """Prompts that nobody else attends to, and a linear classifier on what becomes of them."""

    kind = BlindPromptArchitecture

    def _read(self, text: Tensor, mask: Tensor | None, image: Tensor, prompts: Tensor) -> Tensor:
        encoder, count = self.encoders[1], len(prompts)
        rows = with_prompts(torch.cat([text, image], dim=1), prompts)
        bias = joint_bias(encoder, text, mask, further=rows.shape[1] - text.shape[1], hidden=count)
        last = encoder.depth - 1
        rows = encoder.run(rows, bias, start=0, stop=last)
        seen = None if bias is None else bias[:, :, -count:]
        layer = encoder.layers[last]
        return encoder.finish(layer.attend(rows[:, -count:], layer.keys_values(rows), seen)).mean(dim=1)
