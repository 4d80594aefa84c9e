"""What a search with `data.task: retrieval` may have: values of other sections that need classes are rejected."""

from collections.abc import Iterator
from typing import Any

from nas.config.data_schema import DataConfig
from nas.config.section import Rejected
from nas.search.space import SearchSpace
from nas.search.space.family_registry import FAMILIES, load_architecture_class

RECIPE_DEFAULTS = {"classifier_start": "random", "label_smoothing": 0.0}
"""The values of the recipe that are automatic, and have no other value for retrieval."""

SEARCH_DEFAULTS = {"objective": "mean_recall", "proxy_metric": "mean_reciprocal_rank"}
"""The metrics of a search for retrieval that names none."""

_ALLOWED: dict[str, dict[str, tuple[Any, ...]]] = {
    "recipe": {"classifier_start": ("random",), "class_weights": ("none",), "label_smoothing": (0.0,)},
    "pretraining": {"steps": (0,)},
    "supernet": {"distillation": (0.0,)},
    "search": {"answer": ("auto", "single"), "distill": (False,)},
    "budget": {"oversized": ("reject",)},
}
_REASONS = {
    "class_weights": ", which has no classes",
    "label_smoothing": ", which has no classes",
    "classifier_start": ", whose models have no classifier",
    "steps": ", whose training is contrastive itself",
    "distillation": ", since embeddings of several models cannot be compared",
    "answer": ", since embeddings of several models cannot be averaged",
    "distill": ", since embeddings of several models cannot be averaged",
    "oversized": ", whose loss compares all pairs of a batch",
}


def retrieval_problems(name: str, section: Any, data: DataConfig | None) -> Iterator[Rejected]:
    """Yield what a section has that retrieval does not allow.

    Args:
        name: The name of the section.
        section: The section.
        data: The section `data`; None if it is invalid.
    """
    if data is None or not data.is_retrieval:
        return
    for key, allowed in _ALLOWED.get(name, {}).items():
        value = getattr(section, key)
        if value not in allowed:
            words = " or ".join(_shown(entry) for entry in allowed)
            yield Rejected(f"{words} with data.task: retrieval{_REASONS[key]}", path=(key,), got=value)


def space_problems(space: SearchSpace, data: DataConfig | None) -> Iterator[Rejected]:
    """Yield the genes of a space whose values retrieval does not allow.

    Args:
        space: The search space.
        data: The section `data`; None if it is invalid.
    """
    if data is None or not data.is_retrieval:
        return
    genes = {gene.name: gene for gene in space.architecture_class.genes}
    for name, value in space.architecture_class.retrieval_values.items():
        if tuple(space.choices[name]) != (value,):
            shown = [genes[name].plain(entry) for entry in space.choices[name]]
            yield Rejected(f"[{genes[name].plain(value)}] with data.task: retrieval", path=(name,), got=shown)


def retrieval_families() -> tuple[str, ...]:
    """Return the names of the families that can be searched for retrieval."""
    return tuple(name for name in FAMILIES if load_architecture_class(name).embeds_pairs)


def check_task(data: DataConfig, family: str | None) -> None:
    """Raise Rejected if the models of a family cannot retrieve, and the data are for retrieval.

    Args:
        data: The section `data`.
        family: The name of the family; None if it is invalid.
    """
    if family is None or not data.is_retrieval or load_architecture_class(family).embeds_pairs:
        return
    able = ", ".join(retrieval_families()) or "none is installed"
    raise Rejected(
        f"classification with family: {family}, or a family that embeds pictures and texts apart from each other "
        f"({able})",
        path=("task",),
        got=data.task,
    )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
