"""CoOp (Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022): learned words in the class texts.

As in the paper, with the words at the start and shared by all classes: [start] [b learned words] [name] [end], and the
rest of the template after the name. They are vectors in place of token embeddings; positions are added to them as to
any token. With `initial_text: template`, they start from the first b words of the (first) template and replace them;
further words of the template stay as they are, and if b is larger, the further learned words start at random. With
`random`, they start from N(0, 0.02) and replace all words before the name. Both encoders stay frozen; the images'
final outputs are constants of the data set.

Genes: b, the initial text, and whether a sample's own text counts, which the paper does not have.
"""

import torch
from torch import Tensor, nn

from nas.models.fusion.base import PROMPT_STANDARD_DEVIATION, Features
from nas.models.fusion.class_text_genes import INITIAL_TEXT, alternatives_of
from nas.models.fusion.coop.architecture import CoOpArchitecture
from nas.models.fusion.dual_encoder import DualEncoder
from nas.search.space import Architecture

_PROMPTS = "prompts"
_TEMPLATE = INITIAL_TEXT.names[0]


class CoOp(DualEncoder):
    """Learned words, one set for each initial text that the model serves."""

    architecture_class = CoOpArchitecture
    architecture: CoOpArchitecture

    def build(self) -> None:
        super().build()
        for initial in self._alternatives:
            self.register_parameter(self._name(initial), nn.Parameter(self._initial_words(initial)))

    @torch.no_grad()
    def _initial_words(self, initial: str) -> Tensor:
        """Return the vectors that the learned words start from, (b, D)."""
        text, count = self.encoders[1], self.architecture.context_length()
        words = torch.randn(count, text.hidden_size) * PROMPT_STANDARD_DEVIATION
        if self.class_texts is not None and initial == _TEMPLATE:
            texts = self.placed_class_texts()
            given = text.token_vectors(texts.ids[0, :1, 1 : 1 + min(texts.prefixes[0], count)])[0]
            words[: given.shape[0]] = given.to(words)
        return words

    def class_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        return [self._words(self._initial(architecture))]

    def class_embeddings(self, features: Features, architecture: Architecture) -> Tensor:
        initial, texts = self._initial(architecture), self.placed_class_texts()
        learned = self._words(initial)[: architecture.context_length()]
        ids, mask, prefix = texts.ids[0], texts.mask[0], texts.prefixes[0]
        rest = 1 + (min(prefix, len(learned)) if initial == _TEMPLATE else prefix)
        given = self.encoders[1].token_vectors(ids)
        shared = learned.expand(ids.shape[0], -1, -1)
        vectors = torch.cat([given[:, :1], shared, given[:, rest:]], dim=1)
        seen = torch.cat([mask[:, :1].expand(-1, 1 + len(learned)), mask[:, rest:]], dim=1)
        rows = self.encoders[1].embed_vectors(vectors)
        return self.embed_texts(rows, seen, whole=features.whole_layers)

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        return [*self.class_parameters(architecture), *super().used_parameters(architecture)]

    def source_of(self, name: str, architecture: Architecture) -> str:
        return self._name(self._initial(architecture)) if name == _PROMPTS else name

    @property
    def _alternatives(self) -> tuple[str, ...]:
        return alternatives_of(INITIAL_TEXT, self.architecture.initial_text)

    @staticmethod
    def _initial(architecture: Architecture) -> str:
        assert isinstance(architecture, CoOpArchitecture)
        return INITIAL_TEXT.names[architecture.initial_text]

    def _words(self, initial: str) -> nn.Parameter:
        """Return the learned words; in a replica of `nn.DataParallel`, where they are a plain tensor, that one."""
        words: nn.Parameter = getattr(self, self._name(initial))
        return words

    def _name(self, initial: str) -> str:
        return _PROMPTS if len(self._alternatives) == 1 else f"{initial}_{_PROMPTS}"
