"""Zero-shot CLIP (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021).

The classes are texts; the embedding of a class is the mean of its normalized embeddings under all templates, normalized
again (section 3.1.4 of the paper). Nothing is trained. For retrieval (`data.task`) there are no classes, and images are
compared with the samples' own texts. A sample's own text, which the paper does not have, may be an
extra input: its cosines are then added to the image's with equal weight.
"""

import torch
from torch import Tensor

from nas.models.fusion.base import Features, read_out
from nas.models.fusion.clip_zero_shot.architecture import CLIPZeroShotArchitecture
from nas.models.fusion.dual_encoder import DualEncoder, projected
from nas.search.space import Architecture


class CLIPZeroShot(DualEncoder):
    """Both encoders of a contrastive checkpoint as they are."""

    architecture_class = CLIPZeroShotArchitecture
    learns_weight = False

    @property
    def temperature(self) -> Tensor:
        """What the checkpoint divides cosines by, 0-dimensional."""
        return torch.tensor(1 / self.classifier.scale, device=self.device)

    def contrastive_embeddings(
        self, features: Features, architecture: Architecture | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings of images and of samples' own texts; see `PairEmbedder`."""
        if not features.whole_layers:
            features = features.to(self.encoders[1].dtype)
        text = self.encoders[1]
        read = read_out(text, features.text_tokens, features.text_mask, "pooled")
        return self.image_embeddings(features, architecture or self.architecture), projected(text, read)

    def class_embeddings(self, features: Features, architecture: Architecture) -> Tensor:
        del architecture
        return self.frozen_class_embeddings(features)
