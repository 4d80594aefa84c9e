"""Read a search file: checked whole, every problem reported with its key path, the value and what is allowed."""

import dataclasses
import difflib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nas.common.errors import ConfigError
from nas.common.units import parse_bytes, parse_seconds
from nas.config.readers import READERS, ReaderEntry
from nas.config.schema import (
    COLUMNS,
    FEATURE_DTYPES,
    LEARNING_RATES,
    SAMPLINGS,
    WHEN_TOO_LARGE,
    BudgetConfig,
    ColumnsConfig,
    CompareConfig,
    Config,
    DataConfig,
    EncodersConfig,
    FeaturesConfig,
    HeldOutConfig,
    LearningRatesConfig,
    RecipeConfig,
    SearchConfig,
    SupernetConfig,
)
from nas.search.costs import COSTS
from nas.search.metrics import METRICS, metric_names
from nas.search.objectives import Constraint
from nas.search.space import Architecture, Gene, Granularity, SearchSpace
from nas.search.space.families import FAMILIES, load_architecture_class
from nas.search.strategies.base import EvolutionSettings
from nas.search.strategies.registry import STRATEGIES

_MISSING: Any = object()


class _Section:
    """One mapping of the file: hands out checked values and remembers what was wrong and what was never asked for."""

    def __init__(self, values: Any, path: str, problems: list[str]) -> None:
        self.path = path
        self.problems = problems
        self.asked: set[str] = set()
        if not isinstance(values, dict):
            problems.append(f"{path or 'the file'}: expected a mapping of keys to values, got {_show(values)}")
            values = None
        self.values: dict[str, Any] | None = values

    def problem(self, key: str, value: Any, allowed: str) -> None:
        self.problems.append(f"{self._name(key)}: {_show(value)} is not allowed; expected {allowed}")

    def _name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def get(self, key: str, default: Any, allowed: str) -> Any:
        self.asked.add(key)
        if self.values is None:  # already reported as a whole
            return _MISSING if default is _MISSING else default
        if key in self.values:
            return self.values[key]
        if default is _MISSING:
            self.problems.append(f"{self._name(key)}: is missing; expected {allowed}")
        return default

    def text(self, key: str, default: Any = _MISSING, choices: Sequence[str] = ()) -> str:
        allowed = f"one of {', '.join(choices)}" if choices else "a text"
        value = self.get(key, default, allowed)
        if value is _MISSING or (isinstance(value, str) and value and (not choices or value in choices)):
            return "" if value is _MISSING else value
        self.problem(key, value, allowed)
        return ""

    def boolean(self, key: str, default: bool) -> bool:
        value = self.get(key, default, "true or false")
        if not isinstance(value, bool):
            self.problem(key, value, "true or false")
        return bool(value)

    def integer(self, key: str, minimum: int, maximum: int | None = None, default: Any = _MISSING) -> int:
        allowed = f"a whole number of at least {minimum}" + (f" and at most {maximum}" if maximum is not None else "")
        value = self.get(key, default, allowed)
        if value is _MISSING:
            return minimum
        if _is_integer(value) and minimum <= value and (maximum is None or value <= maximum):
            return int(value)
        self.problem(key, value, allowed)
        return minimum

    def number(
        self, key: str, minimum: float, maximum: float | None = None, default: Any = _MISSING, positive: bool = False
    ) -> float:
        allowed = "a number above 0" if positive else f"a number of at least {minimum:g}"
        allowed += f" and at most {maximum:g}" if maximum is not None else ""
        value = self.get(key, default, allowed)
        if value is _MISSING:
            return minimum
        number = _as_number(value)
        if number is not None and minimum <= number and (maximum is None or number <= maximum):
            if number > 0 or not positive:
                return number
        self.problem(key, value, allowed)
        return minimum

    def integers(self, key: str, minimum: int) -> tuple[int, ...]:
        allowed = f"ascending, distinct whole numbers of at least {minimum}, for instance [{minimum}, {minimum + 2}]"
        value = self.get(key, _MISSING, allowed)
        if value is _MISSING:
            return (minimum,)
        if isinstance(value, list) and value and all(_is_integer(item) and item >= minimum for item in value):
            if value == sorted(set(value)):
                return tuple(value)
        self.problem(key, value, allowed)
        return (minimum,)

    def section(self, key: str, default: Any = _MISSING) -> "_Section":
        value = self.get(key, default, "a mapping")
        if value is _MISSING:
            return _Section({}, self._name(key), [])  # its absence is the one problem to report
        return _Section(value, self._name(key), self.problems)

    def reject_unknown_keys(self) -> None:
        for key in self.values or ():
            if key not in self.asked:
                near = difflib.get_close_matches(str(key), sorted(self.asked), n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                self.problems.append(
                    f"{self._name(str(key))}: unknown key; {hint}allowed: {', '.join(sorted(self.asked))}"
                )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _as_number(value: Any) -> float | None:
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 as a text
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class _Loader(yaml.SafeLoader):
    """In which a key that is there twice is an error, and not the last of the two."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for place, key in enumerate(keys):
            if key.value in (earlier.value for earlier in keys[:place]):
                problem = f"the key {key.value!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


def load_config(path: Path) -> Config:
    """Read and check a search's YAML file.

    Relative paths in the file are meant from the file's own folder and come out absolute.

    Raises:
        ConfigError: If the file cannot be read, or anything in it is wrong; lists every problem.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"is not YAML: {' '.join(str(error).split())}"]) from error
    return parse_config(values, source=str(path), base_directory=path.resolve().parent)


def parse_config(values: Any, *, source: str, base_directory: Path) -> Config:
    """Check the content of a file; see `load_config`.

    Raises:
        ConfigError: Lists every problem.
    """
    problems: list[str] = []
    root = _Section(values, "", problems)
    architecture_class = load_architecture_class(root.text("family", choices=FAMILIES.names(), default="pmf") or "pmf")
    space = _space(root.section("space", default=_MISSING if architecture_class.genes else {}), architecture_class)
    config = Config(
        name=root.text("name"),
        data=_data(root.section("data"), base_directory),
        encoders=_encoders(root.section("encoders"), base_directory),
        features=_features(root.section("features", default={})),
        space=space,
        recipe=_recipe(root.section("recipe")),
        supernet=_supernet(root.section("supernet")),
        search=_search(root.section("search"), space),
        budget=_budget(root.section("budget")),
        compare=_compare(root.section("compare", default={})),
        seed=root.integer("seed", 0, 2**31 - 1, default=0),
        deterministic=root.boolean("deterministic", False),
        threads=root.integer("threads", 1, default=1),
    )
    if config.deterministic and (config.budget.time_seconds is not None or config.budget.trials is None):
        problems.append(
            "deterministic: true is not allowed with budget.time or without budget.trials; expected a budget in trials "
            "alone (--budget 200), since how many fit into a time is not the same twice"
        )
    if config.deterministic and config.search.wants_latency:
        problems.append(
            "search.objective and search.constraints: measured costs such as latency are not allowed with "
            "deterministic: true; a measured value is not reproducible"
        )
    is_multi_label = config.data.has_several_labels
    kind = "multi-label" if is_multi_label else "single-label"
    for name in (config.search.objective, *(constraint.quantity for constraint in config.search.constraints)):
        if name in METRICS and not METRICS[name].applies_to(is_multi_label=is_multi_label):
            problems.append(
                f"search.objective and search.constraints: {name} is not allowed for {kind} data; expected "
                f"{', '.join(metric_names(is_multi_label=is_multi_label))}"
            )
    root.reject_unknown_keys()
    if problems:
        raise ConfigError(source, problems)
    return config


def _local(name: str, base_directory: Path) -> str:
    # Not Path.expanduser, which raises for a user that does not exist; such a path is then reported as missing.
    return os.path.normpath(base_directory / os.path.expanduser(name)) if name else name


def _data(section: _Section, base_directory: Path) -> DataConfig:
    reader = section.text("reader", choices=READERS.names(), default="manifest")
    entry = READERS[reader] if reader in READERS else ReaderEntry("", ("folder",))
    manifest = folder = images = None
    if entry.uses_manifest:
        manifest = _local(section.text("manifest"), base_directory)
        default = str(Path(manifest).parent)
        images = _local(section.text("images", default=default), base_directory)
        _unused(section, reader, "folder")
    else:
        folder = _local(section.text("folder"), base_directory)
        _unused(section, reader, "manifest", "images")
    if not entry.has_label_keys:
        _unused(section, reader, "labels", "label_separator", "columns", defaults=_LABELLED_DEFAULTS)
    if "texts" not in entry.keys:
        _unused(section, reader, "texts", defaults={"texts": "titles"})
    columns = section.section("columns", default={})
    names = {
        field.name: columns.text(field.name, default=field.name)
        for field in dataclasses.fields(ColumnsConfig)
        if field.name != "split"
    }
    split = None if columns.get("split", "split", "") is None else columns.text("split", default="split")
    held_out = section.section("held_out", default={})
    config = DataConfig(
        reader=reader,
        manifest=manifest,
        folder=folder,
        images=images,
        columns=ColumnsConfig(**names, split=split),
        labels=section.text("labels", choices=("one", "several"), default="one"),
        label_separator=section.text("label_separator", default="|"),
        held_out=HeldOutConfig(
            validation=_amount(held_out, "validation", entry.held_out_validation),
            test=_amount(held_out, "test", 0.0),
            seed=held_out.integer("seed", 0, default=0),
        ),
        texts=section.text("texts", choices=("titles", "pages"), default="titles"),
        max_text_tokens=_optional_integer(section, "max_text_tokens", 2),
        skip_unreadable_images=section.boolean("skip_unreadable_images", False),
        allow_duplicates=section.boolean("allow_duplicates", False),
    )
    held_out.reject_unknown_keys()
    columns.reject_unknown_keys()
    section.reject_unknown_keys()
    return config


def parse_data(values: Any, *, source: str, base_directory: Path) -> DataConfig:
    """Check what a file has under `data`; see `load_config`.

    Raises:
        ConfigError: Lists every problem.
    """
    problems: list[str] = []
    config = _data(_Section(values, "data", problems), base_directory)
    if problems:
        raise ConfigError(source, problems)
    return config


_LABELLED_DEFAULTS = {
    "labels": "one",
    "label_separator": "|",
    "columns": {name: name for name in COLUMNS},
}


def _unused(section: _Section, reader: str, *keys: str, defaults: Mapping[str, Any] | None = None) -> None:
    """A key that a reader has no use for may only say what it would be without it."""
    for key in keys:
        value = section.get(key, None, "")
        if value is not None and value != (defaults or {}).get(key):
            section.problem(key, value, f"nothing with reader: {reader}")


def _amount(section: _Section, key: str, default: float) -> float:
    """A share below 1, or a whole number."""
    value = section.number(key, 0, default=default)
    if value >= 1 and value != int(value):
        section.problem(key, value, "a share below 1, or a whole number of images")
    return value


def _encoders(section: _Section, base_directory: Path) -> EncodersConfig:
    def checkpoint(name: str) -> str:
        local = _local(name, base_directory)
        return local if name.startswith((".", "~")) or (name and Path(local).is_dir()) else name

    config = EncodersConfig(image=checkpoint(section.text("image")), text=checkpoint(section.text("text")))
    section.reject_unknown_keys()
    return config


def _features(section: _Section) -> FeaturesConfig:
    config = FeaturesConfig(
        dtype=section.text("dtype", choices=FEATURE_DTYPES, default="float16"),
        disk_bytes=int(_with_unit(section, "disk", parse_bytes, default="20GiB") or 0),
        views=section.integer("views", 1, 100, default=1),
        attention=section.boolean("attention", False),
    )
    section.reject_unknown_keys()
    return config


def _space(section: _Section, architecture_class: type[Architecture]) -> SearchSpace:
    choices: dict[str, tuple[int, ...]] = {}
    per: dict[str, Granularity] = {}
    for gene in architecture_class.genes:
        is_mapping = section.values is not None and isinstance(section.values.get(gene.name), dict)
        if gene.granularities != ("model",) and is_mapping:
            free = section.section(gene.name)
            choices[gene.name] = free.integers("choices", gene.smallest)
            per[gene.name] = _per(free, gene)
            free.reject_unknown_keys()
        else:
            choices[gene.name] = section.integers(gene.name, gene.smallest)
    layer_gene = architecture_class.layer_gene()
    least = 1 if layer_gene is None else choices[layer_gene.name][-1] + 1
    num_layers: int | None = None
    if section.get("num_layers", None, "") is not None:
        num_layers = section.integer("num_layers", least)
    elif any(shared != "model" for shared in per.values()):
        section.problems.append(
            f"{section.path}.num_layers: is missing; expected the number of layers "
            f"{architecture_class.layers_counted}, since "
            f"{', '.join(name for name in per if per[name] != 'model')} can differ within a model"
        )
        num_layers = least
    section.reject_unknown_keys()
    return SearchSpace(architecture_class, choices, per, num_layers)


def _per(section: _Section, gene: Gene) -> Granularity:
    shared = section.text("per", choices=gene.granularities, default="model")
    return next((known for known in gene.granularities if known == shared), "model")


def _recipe(section: _Section) -> RecipeConfig:
    rates = section.section("learning_rates")
    config = RecipeConfig(
        optimizer=section.text("optimizer", choices=("sgd", "adamw")),
        learning_rates=LearningRatesConfig(
            **{name: rates.number(name, 0, positive=True) for name in ("prompts", "mappings", "classifiers")},
            encoders=rates.number("encoders", 0, positive=True, default=1e-4),
        ),
        depth_scaling=section.number("depth_scaling", 0, 4, default=0.0),
        weight_decay=section.number("weight_decay", 0),
        momentum=section.number("momentum", 0, 0.999, default=0.9),
        schedule=section.text("schedule", choices=("cosine", "constant")),
        warmup_fraction=section.number("warmup_fraction", 0, 0.9, default=0.0),
        clip_norm=_optional_number(section, "clip_norm"),
        batch_size=section.integer("batch_size", 1),
        epochs=section.integer("epochs", 1),
        class_weights=section.text("class_weights", choices=("none", "inverse_frequency"), default="none"),
        label_smoothing=section.number("label_smoothing", 0, 0.9, default=0.0),
    )
    rates.reject_unknown_keys()
    section.reject_unknown_keys()
    return config


def _optional_number(section: _Section, key: str) -> float | None:
    return None if section.get(key, None, "") is None else section.number(key, 0, positive=True)


def _optional_integer(section: _Section, key: str, minimum: int) -> int | None:
    return None if section.get(key, None, "") is None else section.integer(key, minimum)


def _supernet(section: _Section) -> SupernetConfig:
    config = SupernetConfig(
        steps=section.integer("steps", 1),
        architectures_per_step=section.integer("architectures_per_step", 1, default=4),
        checkpoint_steps=section.integer("checkpoint_steps", 1, default=100),
        sampling=section.text("sampling", choices=SAMPLINGS, default="sandwich"),
        distillation=section.number("distillation", 0, 1, default=0.0),
    )
    if config.sampling == "sandwich" and config.architectures_per_step < 3:
        section.problem("architectures_per_step", config.architectures_per_step, "at least 3 with sampling: sandwich")
    if config.distillation and config.sampling != "sandwich":
        section.problem("distillation", config.distillation, "0 without sampling: sandwich")
    section.reject_unknown_keys()
    return config


def _search(section: _Section, space: SearchSpace) -> SearchConfig:
    evolution = section.section("evolution", default={})
    objective, *costs = _objectives(section)
    config = SearchConfig(
        strategy=section.text("strategy", choices=STRATEGIES.names()),
        objective=objective,
        costs=tuple(costs),
        constraints=_constraints(section),
        proxy_metric=section.text(
            "proxy_metric", choices=("objective", *metric_names(role="proxy")), default="objective"
        ),
        latency_batch=section.integer("latency_batch", 1, default=1),
        eval_batch=section.integer("eval_batch", 1, default=1),
        round_size=section.integer("round_size", 1),
        promotion_fraction=section.number("promotion_fraction", 0, 1),
        short_training_steps=section.integer("short_training_steps", 1),
        short_training_lr_scale=section.number("short_training_lr_scale", 0, 1, default=0.1, positive=True),
        finalists=section.integer("finalists", 1),
        rerun_seeds=section.integer("rerun_seeds", 0, default=3),
        initial_architectures=_first(section, space),
        evolution=EvolutionSettings(
            population=evolution.integer("population", 2, default=20),
            parents=evolution.integer("parents", 1, default=5),
            crossover_fraction=evolution.number("crossover_fraction", 0, 1, default=0.5),
            mutation_fraction=evolution.number("mutation_fraction", 0, 1, default=0.5),
            mutation_probability=evolution.number("mutation_probability", 0, 1, default=0.3),
            proposal_pool=evolution.integer("proposal_pool", 1, default=24),
        ),
    )
    if config.evolution.parents > config.evolution.population:
        evolution.problem(
            "parents", config.evolution.parents, f"at most the population of {config.evolution.population}"
        )
    if config.evolution.crossover_fraction + config.evolution.mutation_fraction > 1:
        evolution.problem(
            "mutation_fraction", config.evolution.mutation_fraction, "with crossover_fraction at most 1 in all"
        )
    if round(config.round_size * config.promotion_fraction) < 1:
        section.problem(
            "promotion_fraction",
            config.promotion_fraction,
            f"a share that promotes at least one of {config.round_size}",
        )
    evolution.reject_unknown_keys()
    section.reject_unknown_keys()
    return config


def _objectives(section: _Section) -> list[str]:
    metrics = metric_names()
    allowed = f"one of {', '.join(metrics)}, or a list of one of them and any of {', '.join(COSTS)}"
    value = section.get("objective", _MISSING, allowed)
    if value is _MISSING:
        return [metrics[0]]
    names = value if isinstance(value, list) else [value]
    is_known = all(isinstance(name, str) for name in names) and bool(names) and names[0] in metrics
    if is_known and set(names[1:]) <= set(COSTS) and len(set(names)) == len(names):
        return list(names)
    section.problem("objective", value, allowed)
    return [metrics[0]]


def _constraints(section: _Section) -> tuple[Constraint, ...]:
    value = section.get("constraints", [], "")
    if not isinstance(value, list):
        section.problem("constraints", value, "a list of bounds, for instance [peak_memory <= 2GiB]")
        return ()
    found: list[Constraint] = []
    for entry in value:
        try:
            constraint = Constraint.parse(str(entry))
        except ValueError as error:
            section.problems.append(f"{section.path}.constraints: {error}")
            continue
        if any(other.quantity == constraint.quantity for other in found):
            section.problem("constraints", entry, f"one bound on {constraint.quantity}")
        found.append(constraint)
    return tuple(found)


def _first(section: _Section, space: SearchSpace) -> tuple[Architecture, ...]:
    allowed = f"a list of architectures of the space, each a mapping of {', '.join(space.choices)}"
    value = section.get("initial_architectures", [], allowed)
    found = []
    for entry in value if isinstance(value, list) else [value]:
        try:
            architecture = Architecture.from_dict({"family": space.architecture_class.family, **entry})
            space.encode(architecture)
        except (TypeError, ValueError, IndexError, KeyError):
            section.problem("initial_architectures", entry, allowed)
        else:
            found.append(architecture)
    return tuple(found)


def _budget(section: _Section) -> BudgetConfig:
    config = BudgetConfig(
        time_seconds=_with_unit(section, "time", parse_seconds),
        trials=None if section.get("trials", None, "") is None else section.integer("trials", 1),
        memory_bytes=int(_with_unit(section, "memory", parse_bytes) or 0),
        oversized=section.text("oversized", choices=WHEN_TOO_LARGE, default="reject"),
        supernet_fraction=section.number("supernet_fraction", 0, 0.9, default=0.25, positive=True),
        finalists_fraction=section.number("finalists_fraction", 0, 0.9, default=0.35, positive=True),
    )
    if config.time_seconds is None and config.trials is None:
        section.problems.append(f"{section.path}: needs time (for instance 4m) or trials (for instance 200), or both")
    if section.values is not None and "memory" not in section.values:
        section.problems.append(f"{section.path}.memory: is missing; expected bytes per device, for instance 2GiB")
    if config.supernet_fraction + config.finalists_fraction >= 1:
        section.problem("finalists_fraction", config.finalists_fraction, "with supernet_fraction less than 1 in all")
    section.reject_unknown_keys()
    return config


def _compare(section: _Section) -> CompareConfig:
    allowed = "ascending, distinct numbers above 0, for instance [1e-4, 1e-3]"
    value = section.get("learning_rates", list(LEARNING_RATES), allowed)
    rates = [_as_number(rate) for rate in value] if isinstance(value, list | tuple) else []
    known = [rate for rate in rates if rate is not None and rate > 0]
    if not known or len(known) != len(rates) or known != sorted(set(known)):
        section.problem("learning_rates", value, allowed)
        known = [1e-3]
    section.reject_unknown_keys()
    return CompareConfig(tuple(known))


def _with_unit(section: _Section, key: str, parse: Any, default: str | None = None) -> float | None:
    value = section.get(key, default, "")
    if value is None and default is None:
        return None
    try:
        number: float = parse(str(value))
    except ValueError as error:
        section.problems.append(f"{section.path}.{key}: {error}")
        return 1
    if number <= 0:
        section.problem(key, value, "more than 0")
    return number


def config_as_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain values that `parse_config` reads back to an equal one."""
    values = dataclasses.asdict(config)
    values["family"] = config.space.architecture_class.family
    values["space"] = _space_as_dict(config.space)
    search = values["search"]
    search["objective"] = [search["objective"], *search.pop("costs")] if search["costs"] else search["objective"]
    search.pop("costs", None)
    search["initial_architectures"] = [architecture.values() for architecture in config.search.initial_architectures]
    search["constraints"] = [str(constraint) for constraint in config.search.constraints]
    features, budget = values["features"], values["budget"]
    features["disk"] = f"{features.pop('disk_bytes')}B"
    time_seconds, memory_bytes = budget.pop("time_seconds"), budget.pop("memory_bytes")
    budget["time"] = None if time_seconds is None else f"{time_seconds:f}s"
    budget["memory"] = f"{memory_bytes}B"
    return values


def _space_as_dict(space: SearchSpace) -> dict[str, Any]:
    values: dict[str, Any] = {} if space.num_layers is None else {"num_layers": space.num_layers}
    for gene, allowed in space.choices.items():
        values[gene] = (
            {"choices": list(allowed), "per": space.granularity[gene]} if gene in space.granularity else list(allowed)
        )
    return values
