"""A fusion model for image-text retrieval as a Hugging Face model: raw images or texts in, embeddings out."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from nas.models.classifier import RETRIEVAL, FusionConfig, FusionForClassification
from nas.models.fusion.base import features_of
from nas.models.fusion.embeddings import pair_embedder
from nas.models.inputs import check_options, check_pixels, check_texts, refuse_onnx_export, requested_outputs


@dataclass
class RetrievalOutput(ModelOutput):
    """The embeddings of pictures and texts, whose dot products are cosine similarities.

    Args:
        image_embeds: The embeddings of the pictures, of unit length, (B_i, E); None without pictures.
        text_embeds: The embeddings of the texts, (B_t, E); None without texts.
    """

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None


class FusionForRetrieval(FusionForClassification):
    """A complete model for retrieval, including the encoders that it uses.

    It is saved and loaded as a classifier is, and has no classes. Pictures and texts are embedded apart from each
    other, so that any number of each can be given.

    The constructor gives arbitrary weights; use `from_pretrained` to load an exported model.
    """

    task = RETRIEVAL

    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> RetrievalOutput | tuple[Tensor, ...]:
        """Embed images, texts or both.

        Args:
            pixel_values: Images (B_i, 3, height, width), from the image processor in the model's directory.
            input_ids: Token ids (B_t, T), from the tokenizer in the model's directory.
            attention_mask: (B_t, T), 1 or true where there is a token; by default nothing is padded.
            token_type_ids: (B_t, T), zeros, which some tokenizers return.
            return_dict: False returns a tuple of what was embedded; the default is that of the configuration.
            options: Arguments of other models of transformers, which raise an error unless they are None or false.

        Returns:
            `image_embeds` (B_i, E) and `text_embeds` (B_t, E); that of a modality that is not given is None.

        Raises:
            ValueError: If an input has a wrong shape or value, or there is none.
            TypeError: If there is no such argument.
        """
        refuse_onnx_export()
        check_options({**requested_outputs(self.config), **options})
        self._rebind_replica()
        if pixel_values is None and input_ids is None:
            raise ValueError("pixel_values and input_ids: missing; expected images, texts or both")
        encoder = self.fusion.encoders[1]
        # The other modality is a single blank, whose embedding is not returned.
        pixels = self._blank_pixels() if pixel_values is None else check_pixels(pixel_values)
        ids, mask = torch.zeros(1, 1, dtype=torch.int64, device=pixels.device), None
        if input_ids is not None:
            sizes = {"max_tokens": encoder.max_text_tokens, "vocabulary": int(encoder.config.vocab_size)}
            ids, mask = check_texts(input_ids, attention_mask, token_type_ids, **sizes)
        pixels = pixels.to(self._weights_dtype())
        whole = self._needs_whole_layers(pixels, ids, mask)
        features = features_of(self.fusion.encoders, self.fusion.entry_layers(), pixels, ids, mask, whole_layers=whole)
        images, texts = pair_embedder(self.fusion).contrastive_embeddings(features)
        output = RetrievalOutput(
            image_embeds=None if pixel_values is None else images, text_embeds=None if input_ids is None else texts
        )
        return output if (return_dict if return_dict is not None else self.config.return_dict) else output.to_tuple()

    def _blank_pixels(self) -> Tensor:
        size = (self.config.image_config or {}).get("image_size", 224)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return torch.zeros(1, 3, height, width, device=self.device)


def model_class_of(config: FusionConfig) -> type[FusionForClassification]:
    """Return the class of the model that a configuration describes."""
    return FusionForRetrieval if config.task == RETRIEVAL else FusionForClassification
