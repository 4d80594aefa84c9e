"""Complete the content of a search file: the values of keys that it leaves out or sets to `auto`.

Values that follow from the file itself are final. Those that follow from the data, the encoders or the machine are
placeholders, with which the rest of the file can be checked at once; `nas.config.defaults.resolve` replaces them.
"""

from collections.abc import Mapping
from typing import Any

from nas.config.reader_registry import READERS
from nas.config.retrieval import RECIPE_DEFAULTS, SEARCH_DEFAULTS
from nas.config.schema import BudgetConfig
from nas.config.section import AUTO
from nas.search.space import MAX_LAYERS, Architecture
from nas.search.space.family_registry import FAMILIES, load_architecture_class

DEFAULT_FAMILY = "pmf"
DEFAULT_TIME = "1h"
DEFAULT_TRIALS = 100
"""The budget of a deterministic search, which has no time."""
SHORT_TRAINING_FRACTION = 0.1
RECIPE_FRACTION = 0.2
FINE_TUNING_DECAY = 0.05
SGD_DECAY = 1e-4

_SECTIONS = ("encoders", "space", "recipe", "supernet", "search", "budget")
_PLACEHOLDERS: Mapping[tuple[str, str], Any] = {
    ("encoders", "image"): AUTO,
    ("encoders", "text"): AUTO,
    ("recipe", "weight_decay"): 1.0,
    ("recipe", "batch_size"): 1,
    ("recipe", "epochs"): 1,
    ("recipe", "precision"): "float32",
    ("supernet", "steps"): 1,
    ("search", "short_training_steps"): 1,
    ("budget", "memory"): "1GiB",
}
_FROZEN_RATES = {"prompts": 6e-3, "mappings": 6e-3, "classifiers": 1.2e-2}
_SOLVED_RATES = {"prompts": 6e-4, "mappings": 6e-4, "classifiers": 1.2e-3}
"""The rates where classifiers start from a solution, which large rates would undo."""
_TRAINED_RATES = {"prompts": 1e-3, "mappings": 1e-3, "classifiers": 1e-3}
_SGD_RATES = {"prompts": 1e-2, "mappings": 1e-2, "classifiers": 1e-2}
_TUNED = {
    "classifier_start": "linear",
    "depth_scaling": 0.5,
    "warmup_fraction": 0.1,
    "clip_norm": 1.0,
    "label_smoothing": 0.1,
}
_NEUTRAL = {
    "classifier_start": "random",
    "depth_scaling": 0.0,
    "warmup_fraction": 0.0,
    "clip_norm": None,
    "label_smoothing": 0.0,
}
"""The values in a file that names its optimizer, and so has a recipe of its own."""


def fill(values: Any) -> tuple[Any, dict[str, Any]]:
    """Return the content of a search file with a value for every key that may be left out.

    Args:
        values: The content, which may be invalid.

    Returns:
        The complete content, and the dotted keys of its placeholders with what the file has in their place.
    """
    if not isinstance(values, dict):
        return values, {}
    filled = dict(values)
    for name in _SECTIONS:
        if is_auto(filled, name):
            filled[name] = {}
        elif isinstance(filled[name], dict):
            filled[name] = dict(filled[name])
    architecture_class = _architecture_class(filled)
    _fill_retrieval(filled)
    _fill_recipe(filled["recipe"], architecture_class)
    _fill_search(filled["search"], filled.get("data"))
    _fill_budget(filled["budget"], is_deterministic=filled.get("deterministic") is True)
    if is_auto(values, "recipe"):
        _fill_recipe_fraction(filled["budget"])
    return filled, _fill_placeholders(filled, architecture_class, has_space=not is_auto(values, "space"))


def is_auto(values: Mapping[str, Any], key: str) -> bool:
    """Return whether a mapping leaves a value to the program: it lacks the key, or has `auto` for it."""
    return key not in values or values[key] == AUTO


def _architecture_class(values: Mapping[str, Any]) -> type[Architecture] | None:
    family = values.get("family", DEFAULT_FAMILY)
    return load_architecture_class(family) if isinstance(family, str) and family in FAMILIES else None


def _fill_all(section: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    for key, default in defaults.items():
        if is_auto(section, key):
            section[key] = default


def _fill_recipe(recipe: Any, architecture_class: type[Architecture] | None) -> None:
    if not isinstance(recipe, dict):
        return
    trains_encoders = architecture_class is not None and bool(architecture_class.trains)
    is_sgd = recipe.get("optimizer") == "sgd"
    defaults = _NEUTRAL if "optimizer" in recipe else _TUNED
    if trains_encoders:
        # The layers above amplify the change of an early prompt only if they are frozen. What trained encoders put out
        # changes too much for a solution on their first outputs to be measured as a good start.
        defaults = {**defaults, "classifier_start": "random", "depth_scaling": 0.0}
    _fill_all(recipe, defaults)
    if is_sgd or trains_encoders:
        _fill_all(recipe, {"weight_decay": SGD_DECAY if is_sgd else FINE_TUNING_DECAY})
    rates = {} if is_auto(recipe, "learning_rates") else recipe["learning_rates"]
    if isinstance(rates, dict):
        recipe["learning_rates"] = dict(rates)
        known = _SGD_RATES if is_sgd else _TRAINED_RATES if trains_encoders else _FROZEN_RATES
        if known is _FROZEN_RATES and recipe["classifier_start"] == "linear":
            known = _SOLVED_RATES
        _fill_all(recipe["learning_rates"], known)
    if recipe.get("steps") is not None and is_auto(recipe, "epochs"):
        recipe["epochs"] = None


def _fill_retrieval(values: Mapping[str, Any]) -> None:
    """Give a search for retrieval the values that follow from its task."""
    data = values.get("data")
    if isinstance(data, dict) and data.get("task") == "retrieval":
        family = _architecture_class(values)
        genes = {} if family is None else {gene.name: gene for gene in family.genes}
        needed = {} if family is None else family.retrieval_values
        space = {name: [genes[name].plain(value)] for name, value in needed.items()}
        for section, defaults in (("recipe", RECIPE_DEFAULTS), ("search", SEARCH_DEFAULTS), ("space", space)):
            if isinstance(values[section], dict):
                _fill_all(values[section], defaults)


def _fill_search(search: Any, data: Any) -> None:
    if not isinstance(search, dict):
        return
    if is_auto(search, "objective"):
        # Exported models predict at the tuned threshold, so this is what their user gets.
        search["objective"] = "macro_f1_tuned" if _has_several_labels(data) else "accuracy"
    if is_auto(search, "short_training_steps") and search.get("short_training_fraction") is None:
        search["short_training_fraction"] = SHORT_TRAINING_FRACTION


def _has_several_labels(data: Any) -> bool:
    if not isinstance(data, dict):
        return False
    reader = data.get("reader")
    entry = READERS[reader] if isinstance(reader, str) and reader in READERS else None
    return data.get("labels") == "several" or (entry is not None and entry.has_several_labels)


def _fill_budget(budget: Any, *, is_deterministic: bool) -> None:
    if isinstance(budget, dict) and "time" not in budget and "trials" not in budget:
        budget |= {"trials": DEFAULT_TRIALS} if is_deterministic else {"time": DEFAULT_TIME}


def _fill_recipe_fraction(budget: Any) -> None:
    """Give time to the tuning of a recipe that the file leaves out: a fifth, or half of what other fractions leave."""
    if not isinstance(budget, dict) or "recipe_fraction" in budget:
        return
    others = ("supernet_fraction", "finalists_fraction")
    given = [budget.get(key, BudgetConfig.model_fields[key].default) for key in others]
    if all(isinstance(fraction, int | float) for fraction in given) and sum(given) < 1:
        budget["recipe_fraction"] = round(min(RECIPE_FRACTION, (1 - sum(given)) / 2), 4)


def _fill_placeholders(
    values: dict[str, Any], architecture_class: type[Architecture] | None, *, has_space: bool
) -> dict[str, Any]:
    automatic: dict[str, Any] = {}
    for (section, key), placeholder in _PLACEHOLDERS.items():
        if isinstance(values[section], dict) and is_auto(values[section], key):
            values[section][key] = placeholder
            automatic[f"{section}.{key}"] = AUTO
    space = values["space"]
    for gene in architecture_class.genes if architecture_class is not None and isinstance(space, dict) else ():
        if gene.names and has_space and gene.name not in space:
            continue  # a file that lists choices has the paper's alternative where it names no other
        is_counted = gene.is_layer and is_counted_from_end(space.get(gene.name))
        if is_counted or is_auto(space, gene.name):
            automatic[f"space.{gene.name}"] = space.get(gene.name, AUTO)
            space[gene.name] = [gene.plain(gene.smallest)]
    return automatic


def is_counted_from_end(choices: Any) -> bool:
    """Return whether choices of a layer gene are negative numbers: -1 for the last layer, -2 for the last two."""
    return (
        isinstance(choices, list | tuple)
        and bool(choices)
        and all(isinstance(value, int) and -MAX_LAYERS <= value < 0 for value in choices)
        and list(choices) == sorted(set(choices))
    )
