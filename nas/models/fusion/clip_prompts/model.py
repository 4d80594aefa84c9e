"""Dual encoders with deep prompts, whose classes are texts; see `DualEncoder` for the logits.

Shapes: B samples, C classes, b prompts, D hidden size, E size of the common space.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from nas.models.encoders.base import Encoder
from nas.models.fusion.base import PROMPT_STANDARD_DEVIATION, Features
from nas.models.fusion.class_text_genes import INITIAL_TEXT, alternatives_of
from nas.models.fusion.clip_prompts.architecture import COUPLINGS, DeepPromptsArchitecture
from nas.models.fusion.clip_prompts.images import prompted_image
from nas.models.fusion.clip_prompts.texts import PromptedTexts, prompted_texts
from nas.models.fusion.dual_encoder import DualEncoder, projected
from nas.search.space import Architecture

_TEXT_PROMPTS, _IMAGE_PROMPTS, _COUPLING = "text_prompts", "image_prompts", "coupling"
_TEMPLATE = INITIAL_TEXT.names[0]
_PER_LAYER = COUPLINGS[0]


class DeepPromptsDualEncoder(DualEncoder):
    """Prompts in the first layers of one or both encoders.

    In a supernet, all architectures share the prompts of an encoder, except for text prompts with another initial text;
    each kind of coupling has mappings of its own.
    """

    architecture: DeepPromptsArchitecture

    def build(self) -> None:
        super().build()
        chosen, (image, text) = self.architecture, self.encoders
        layers = range(chosen.depth)
        for initial in self._initial_texts:
            prompts = [_random(chosen.length, text) for _ in layers]
            if initial == _TEMPLATE:
                self._start_from_template(prompts[0])
            self.add_module(self._text_prompts_name(initial), nn.ParameterList(prompts))
        if chosen.has_own_image_prompts:
            self.add_module(_IMAGE_PROMPTS, nn.ParameterList(_random(chosen.length, image) for _ in layers))
        for kind in self._couplings:
            mappings = [nn.Linear(text.hidden_size, image.hidden_size) for _ in (layers if kind == _PER_LAYER else [0])]
            self.add_module(self._coupling_name(kind), nn.ModuleList(mappings))

    @torch.no_grad()
    def _start_from_template(self, prompts: Tensor) -> None:
        """Set the first prompts to the embeddings of the first words of the first template."""
        if self.class_texts is not None:
            texts = self.placed_class_texts()
            words = self.encoders[1].token_vectors(texts.ids[0, :1, 1 : 1 + min(texts.prefixes[0], len(prompts))])[0]
            prompts[: len(words)] = words.to(prompts)

    def image_embeddings(self, features: Features, architecture: Architecture) -> Tensor:
        chosen = _checked(architecture)
        if not chosen.prompts_images:
            return super().image_embeddings(features, architecture)
        image = self.encoders[0]
        prompts = self._image_prompts(chosen)
        return projected(image, prompted_image(image, features.image_tokens, prompts, whole=features.whole_layers))

    def class_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        chosen = _checked(architecture)
        if not chosen.prompts_texts:
            return []
        return self._parameters_of(self._text_prompts_name(_initial_text(chosen)))[: chosen.depth]

    def class_embeddings(self, features: Features, architecture: Architecture) -> Tensor:
        chosen = _checked(architecture)
        if not chosen.prompts_texts:
            return self.frozen_class_embeddings(features)
        given, initial = self.placed_class_texts(), _initial_text(chosen)
        texts = PromptedTexts.of(
            given.ids[0],
            given.mask[0],
            words=given.prefixes[0],
            length=chosen.length,
            keeps_words=initial == _TEMPLATE,
        )
        text, prompts = self.encoders[1], self._text_prompts(chosen)
        return projected(text, prompted_texts(text, texts, prompts, whole=features.whole_layers))

    def _text_prompts(self, chosen: DeepPromptsArchitecture) -> list[Tensor]:
        """Return the prompts of the first J layers of the text encoder, (b, D_txt)."""
        return [entry[: chosen.length] for entry in self.class_parameters(chosen)]

    def _image_prompts(self, chosen: DeepPromptsArchitecture) -> list[Tensor]:
        """Return the prompts of the first J layers of the image encoder, (b, D_img)."""
        if not chosen.is_coupled:
            return [entry[: chosen.length] for entry in self._parameters_of(_IMAGE_PROMPTS)[: chosen.depth]]
        prompts = self._text_prompts(chosen)
        return [mapping(entry) for mapping, entry in zip(self._mappings(chosen), prompts, strict=True)]

    def _mappings(self, chosen: DeepPromptsArchitecture) -> list[nn.Module]:
        """Return the mapping of each of the first J layers."""
        kind = COUPLINGS[chosen.coupling]
        mappings = list(cast(Iterable[nn.Module], self.get_submodule(self._coupling_name(kind))))
        return mappings[: chosen.depth] if kind == _PER_LAYER else mappings * chosen.depth

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        chosen = _checked(architecture)
        used = [*super().used_parameters(architecture), *self.class_parameters(architecture)]
        if chosen.is_coupled:
            mappings = dict.fromkeys(self._mappings(chosen))
            used += [parameter for mapping in mappings for parameter in mapping.parameters()]
        elif chosen.prompts_images:
            used += self._parameters_of(_IMAGE_PROMPTS)[: chosen.depth]
        return used

    def source_of(self, name: str, architecture: Architecture) -> str:
        chosen, (module, _, rest) = _checked(architecture), name.partition(".")
        if module == _TEXT_PROMPTS:
            return f"{self._text_prompts_name(_initial_text(chosen))}.{rest}"
        if module == _COUPLING:
            return f"{self._coupling_name(COUPLINGS[chosen.coupling])}.{rest}"
        return name

    def _parameters_of(self, name: str) -> list[nn.Parameter]:
        return list(cast(nn.ParameterList, self.get_submodule(name)))

    @property
    def _initial_texts(self) -> Sequence[str]:
        """The initial texts that the model has text prompts for: one, except in a supernet."""
        chosen = self.architecture
        return alternatives_of(INITIAL_TEXT, chosen.initial_text) if chosen.prompts_texts else ()

    @property
    def _couplings(self) -> Sequence[str]:
        """The couplings that the model has mappings for: one, except in a supernet."""
        chosen = self.architecture
        if not chosen.is_coupled:
            return ()
        return COUPLINGS if chosen.coupling == len(COUPLINGS) else (COUPLINGS[chosen.coupling],)

    def _text_prompts_name(self, initial: str) -> str:
        return _TEXT_PROMPTS if len(self._initial_texts) == 1 else f"{initial}_{_TEXT_PROMPTS}"

    def _coupling_name(self, kind: str) -> str:
        return _COUPLING if len(self._couplings) == 1 else f"{kind}_{_COUPLING}"


def _random(length: int, encoder: Encoder) -> Tensor:
    return torch.randn(length, encoder.hidden_size) * PROMPT_STANDARD_DEVIATION


def _checked(architecture: Architecture) -> DeepPromptsArchitecture:
    assert isinstance(architecture, DeepPromptsArchitecture)
    return architecture


def _initial_text(chosen: DeepPromptsArchitecture) -> str:
    return INITIAL_TEXT.names[chosen.initial_text]
