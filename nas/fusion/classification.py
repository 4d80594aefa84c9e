"""PMF as a Hugging Face model: raw images and texts in, class logits out, `from_pretrained` and `save_pretrained`."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from nas.encoders import build_encoder
from nas.fusion.pmf import PMF, base_features
from nas.space import Architecture

MULTI_LABEL: Literal["multi_label_classification"] = "multi_label_classification"
"""What `problem_type` is where a sample may have several labels; transformers' own name."""


class PMFConfig(PreTrainedConfig):
    """Configurations of both encoders and the architecture between them.

    Args:
        image_config: The image encoder's configuration as a dictionary, `model_type` included.
        text_config: The text encoder's.
        architecture: Gene name → value.
        max_text_tokens: Texts were cut to this many tokens in training.
        threshold: Probability from which a label is said to be there, where a sample may have several
            (`problem_type` is `MULTI_LABEL`).
    """

    model_type = "pmf"

    image_config: dict[str, Any] | None = None
    text_config: dict[str, Any] | None = None
    architecture: dict[str, int | list[list[int]]] | None = None
    max_text_tokens: int = 512
    threshold: float = 0.5


class PMFForClassification(PreTrainedModel):
    """A complete PMF classifier, frozen encoders included.

    Built with random weights from a configuration; use `from_pretrained` for an exported one.
    """

    config_class = PMFConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: PMFConfig) -> None:
        super().__init__(config)
        if config.image_config is None or config.text_config is None or config.architecture is None:
            raise ValueError("a PMFConfig needs image_config, text_config and architecture")
        self.image_encoder = build_encoder(AutoConfig.for_model(**config.image_config, attn_implementation="sdpa"))
        self.text_encoder = build_encoder(AutoConfig.for_model(**config.text_config, attn_implementation="sdpa"))
        self.pmf = PMF(
            image_encoder=self.image_encoder,
            text_encoder=self.text_encoder,
            architecture=Architecture.from_dict(config.architecture),
            class_count=int(config.num_labels or 0),
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Classify images with their texts.

        Args:
            pixel_values: (B, 3, height, width), from the image processor in the model's folder.
            input_ids: (B, T), from the tokenizer there.
            attention_mask: (B, T), 1 or true where there is a token; all of them by default.
            labels: For a loss: class indices (B,), or 1 for each label that a sample has, float, (B, C).

        Returns:
            `logits` (B, C), and `loss` where labels were given.
        """
        mask = None if attention_mask is None else attention_mask.to(torch.bool)
        features = base_features(
            self.image_encoder, self.text_encoder, self.pmf.architecture.fusion_layer, pixel_values, input_ids, mask
        )
        logits = self.pmf(features)
        return SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
        )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        several = self.config.problem_type == MULTI_LABEL
        return binary_cross_entropy_with_logits(logits, labels) if several else cross_entropy(logits, labels)


AutoConfig.register("pmf", PMFConfig, exist_ok=True)
