"""The texts of the classes as token ids: prompted dual encoders compare images with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False, repr=False)
class ClassTexts:
    """The token ids of the texts of C classes under P templates such as "a photo of a {}".

    They follow from the names of the classes, the templates and the tokenizer: constants of a search.

    Args:
        ids: Token ids, (P, C, T), int64, special tokens included.
        mask: (P, C, T), bool, true where there is a token; padding is at the end.
        prefixes: The number of tokens of each template between the start token and the name of the class, the same for
            all classes.
    """

    ids: Tensor
    mask: Tensor
    prefixes: tuple[int, ...]

    @classmethod
    def of(cls, token_ids: Sequence[Sequence[Sequence[int]]], prefixes: Sequence[int]) -> "ClassTexts":
        """Return texts of different lengths, padded to the longest.

        They are on the CPU, wherever tensors are created by default: models may be built without data.

        Args:
            token_ids: The token ids of each class under each template, without padding.
            prefixes: The number of tokens before the name of the class, for each template.
        """
        longest = max(len(text) for texts in token_ids for text in texts)
        padded = [[[*text, *[0] * (longest - len(text))] for text in texts] for texts in token_ids]
        lengths = torch.tensor([[len(text) for text in texts] for texts in token_ids], device=_CPU)
        mask = torch.arange(longest, device=_CPU) < lengths[:, :, None]
        return cls(torch.tensor(padded, dtype=torch.int64, device=_CPU), mask, tuple(prefixes))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ClassTexts":
        """Return the texts that `as_dict` describes."""
        return cls.of(values["ids"], values["prefixes"])

    def as_dict(self) -> dict[str, Any]:
        """Return plain values: the ids without padding, and the prefixes."""
        lengths = self.mask.sum(dim=2).tolist()
        rows = zip(self.ids.tolist(), lengths, strict=True)
        ids = [[text[:count] for text, count in zip(texts, counts, strict=True)] for texts, counts in rows]
        return {"ids": ids, "prefixes": list(self.prefixes)}

    @property
    def num_classes(self) -> int:
        """The number of classes C."""
        return int(self.ids.shape[1])

    @property
    def longest(self) -> int:
        """The number of tokens T of the longest text."""
        return int(self.ids.shape[2])

    def __repr__(self) -> str:
        """Return all that the memory of a step depends on."""
        return f"ClassTexts(shape={tuple(self.ids.shape)}, prefixes={self.prefixes})"

    def to(self, device: torch.device) -> "ClassTexts":
        """Return the texts on a device."""
        if self.ids.device == device:
            return self
        return ClassTexts(self.ids.to(device), self.mask.to(device), self.prefixes)

    def without_values(self) -> "ClassTexts":
        """Return texts of the same shape with arbitrary ids, where tensors are created by default."""
        shape = tuple(self.ids.shape)
        return ClassTexts(torch.empty(shape, dtype=torch.int64), torch.empty(shape, dtype=torch.bool), self.prefixes)
