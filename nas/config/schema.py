"""The search file: one declaration of every key, with its type, default, limits and description.

`nas.config.load` reads it, `docs/configuration.md` and the JSON schema for editors are generated from it.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self, cast

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nas.common.units import MAX_COUNT, MAX_SEED, format_seconds
from nas.config.choices import Oversized
from nas.config.data_schema import DataConfig, FeaturesConfig
from nas.config.encoders_schema import EncodersConfig
from nas.config.pretraining_schema import PretrainingConfig, check_family
from nas.config.retrieval import check_task, retrieval_problems, space_problems
from nas.config.search_schema import SearchConfig
from nas.config.section import Automatic, Expected, FromFile, Rejected, Section, Several, rejections
from nas.config.space_schema import parse_space, space_as_dict
from nas.config.training_schema import RecipeConfig, SupernetConfig
from nas.config.values import Bytes, Flag, Integer, Name, Number, OneOf, Rates, Seconds, Text
from nas.search.costs import COSTS
from nas.search.metric_registry import METRICS, metric_names
from nas.search.space import SearchSpace
from nas.search.space.family_registry import FAMILIES, load_architecture_class

LEARNING_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


class BudgetConfig(Section):
    """The resources of a search: `time`, `trials` or both.

    Without either, a search has `time: 1h`, or `trials: 100` if it is `deterministic`.
    """

    time_seconds: Seconds | None = Field(
        default=None,
        validation_alias="time",
        serialization_alias="time",
        description="The time of all sessions of a search together; null: no limit.",
    )
    trials: Integer | None = Field(
        default=None,
        ge=1,
        le=MAX_COUNT,
        description="The number of scored candidates in all sessions together; null: no limit.",
    )
    memory_bytes: Annotated[Bytes, Automatic("half of the host's memory, or 80 % of a GPU's")] = Field(
        validation_alias="memory",
        serialization_alias="memory",
        description="The memory per device: of a GPU, or the private memory of all workers of a machine together.",
    )
    oversized: Oversized = Field(
        default="reject",
        description="The treatment of a candidate whose batch does not fit into memory: `reject` it, or `accumulate` "
        "its gradients over the largest micro-batches that fit.",
    )
    supernet_fraction: Number = Field(
        default=0.25, gt=0, le=0.9, description="The fraction of the time for the training of the supernet."
    )
    recipe_fraction: Number = Field(
        default=0.0,
        ge=0,
        le=0.9,
        description="The fraction of the time for tuning the recipe, from the section `recipe` on: settings are tried "
        "on the default architecture before anything else, and the best one is used from then on. 0: the recipe is "
        "used as it is. In a file without `recipe`, the default is 0.2, or half of what the other fractions leave.",
    )
    finalists_fraction: Number = Field(
        default=0.35, gt=0, le=0.9, description="The fraction of the time for the full training of the finalists."
    )

    @field_validator("trials")
    @classmethod
    def _has_a_limit(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None and info.data.get("time_seconds", 0) is None:
            raise Rejected("trials (for instance 200), budget.time (for instance 4m), or both", problem="missing")
        return value

    @field_validator("finalists_fraction")
    @classmethod
    def _leaves_time_for_candidates(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("recipe_fraction", 0) + info.data.get("supernet_fraction", 0) + value >= 1:
            raise Rejected("less than 1 together with recipe_fraction and supernet_fraction")
        return value


class CompareConfig(Section):
    """The comparison of fusion families."""

    learning_rates: Rates = Field(
        default=LEARNING_RATES,
        description="The peak learning rates that are tried for each family, from the middle outwards. The best on "
        "validation is used.",
    )
    note: Text | None = Field(
        default=None,
        description="A line below the table, for what a reader has to know, such as that a pretraining has seen the "
        "classes.",
    )


def _space(value: Any, info: ValidationInfo) -> Any:
    family = info.data.get("family")
    if family is None:  # which is reported
        return value
    architecture_class = load_architecture_class(family)
    if value is None:
        if architecture_class.genes:
            raise Rejected("a mapping", problem="missing")
        value = {}
    if isinstance(value, SearchSpace):
        if value.architecture_class is not architecture_class:
            raise Rejected(f"a space of the family {family}", got=value.architecture_class.family)
        return value
    return parse_space(value, architecture_class)


SpaceSection = Annotated[
    SearchSpace,
    PlainValidator(_space),
    PlainSerializer(space_as_dict),
    Expected("a mapping"),
    Automatic(),
]


class Config(Section):
    """A search.

    With `deterministic`, trials and their values do not depend on the number of workers, nor on interruptions:
    candidates are proposed in rounds, results are reported in the order of the trials, each worker has `threads`
    threads, and nothing that is measured has an effect.
    """

    name: Annotated[Name, Automatic("the name of the file")] = Field(
        description="The name of the search, which its default run directory has."
    )
    family: Annotated[Text, OneOf(FAMILIES.names), Several()] = Field(
        default="pmf", description="The fusion family. With a list, every family is an arm of the search."
    )
    seed: Integer = Field(default=0, ge=0, le=MAX_SEED, description="The seed of all random draws.")
    deterministic: Flag = Field(
        default=False,
        description="Whether the result depends on the configuration only. Requires a budget in trials without a time.",
    )
    threads: Integer = Field(
        default=1,
        ge=1,
        le=1_024,
        description="The number of threads per worker with `deterministic`; otherwise all cores are shared.",
    )
    data: DataConfig = Field(description="The samples.")
    encoders: Annotated[EncodersConfig, Automatic()] = Field(description="The pretrained encoders.")
    features: FeaturesConfig = Field(default=FeaturesConfig(), description="The cache of encoder outputs on disk.")
    space: SpaceSection = Field(
        default=cast(Any, None),
        description="The choices of each gene of the family. Where `family` is a list: such a mapping for each family.",
    )
    recipe: Annotated[RecipeConfig, Automatic()] = Field(description="The recipe of a full training.")
    pretraining: PretrainingConfig = Field(
        default=PretrainingConfig(), description="The pretraining before a full training, in families that have one."
    )
    supernet: Annotated[SupernetConfig, Automatic()] = Field(description="The training of the weight-sharing supernet.")
    search: Annotated[SearchConfig, Automatic()] = Field(
        description="The objective, the strategy and the promotion of candidates."
    )
    budget: Annotated[BudgetConfig, Automatic()] = Field(description="The resources of the search.")
    compare: CompareConfig = Field(default=CompareConfig(), description="The comparison of fusion families.")

    @model_validator(mode="before")
    @classmethod
    def _architectures_are_of_the_family(cls, values: Any) -> Any:
        """Add the family to initial architectures, which a search file gives without."""
        search = values.get("search") if isinstance(values, dict) else None
        if not isinstance(search, dict) or not isinstance(search.get("initial_architectures"), list):
            return values
        family = {"family": values.get("family", "pmf")}
        complete = [family | entry if isinstance(entry, dict) else entry for entry in search["initial_architectures"]]
        return {**values, "search": {**search, "initial_architectures": complete}}

    @field_validator("pretraining")
    @classmethod
    def _family_can_be_pretrained(cls, value: PretrainingConfig, info: ValidationInfo) -> PretrainingConfig:
        return check_family(value, info.data.get("family"))

    @field_validator("data")
    @classmethod
    def _family_has_the_task(cls, value: DataConfig, info: ValidationInfo) -> DataConfig:
        check_task(value, info.data.get("family"))
        return value

    @field_validator("space")
    @classmethod
    def _space_has_the_task(cls, value: SearchSpace, info: ValidationInfo) -> SearchSpace:
        problems = list(space_problems(value, info.data.get("data")))
        if problems:
            raise rejections(problems)
        return value

    @field_validator("recipe", "pretraining", "supernet", "search", "budget")
    @classmethod
    def _sections_fit_the_task(cls, value: Section, info: ValidationInfo) -> Section:
        problems = list(retrieval_problems(str(info.field_name), value, info.data.get("data")))
        if problems:
            raise rejections(problems)
        return value

    @field_validator("search")
    @classmethod
    def _search_fits_the_other_sections(cls, value: SearchConfig, info: ValidationInfo) -> SearchConfig:
        problems = [
            *(() if _defers_space(info) else _outside_space(value, info.data.get("space"))),
            *(_measured_costs(value) if info.data.get("deterministic") else ()),
            *_wrong_metrics(value, info.data.get("data")),
        ]
        if problems:
            raise rejections(problems)
        return value

    @field_validator("budget")
    @classmethod
    def _deterministic_needs_trials(cls, value: BudgetConfig, info: ValidationInfo) -> BudgetConfig:
        if not info.data.get("deterministic"):
            return value
        if value.time_seconds is not None:
            expected = "a budget in trials only (--budget 200) with deterministic: true, since time is not reproducible"
            raise Rejected(expected, path=("time",), got=format_seconds(value.time_seconds))
        return value

    _automatic: Mapping[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def automatic(self) -> Mapping[str, Any]:
        """The dotted keys whose values only stand in, until `nas.config.defaults.resolve` knows more, as given."""
        return self._automatic

    def deferring(self, automatic: Mapping[str, Any]) -> Self:
        """Return a copy some of whose values stand in for those that follow from data, encoders and machine.

        Args:
            automatic: The dotted keys of these values, and what the file has for them.
        """
        copy = self.model_copy()
        copy._automatic = dict(automatic)
        return copy

    def replace(self, **changes: Any) -> Self:
        kept = {key: given for key, given in self._automatic.items() if key.partition(".")[0] not in changes}
        return super().replace(**changes).deferring(kept)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of a search file that `parse_config` reads back to an equal configuration."""
        values = self.model_dump(mode="json", by_alias=True)
        for key, given in self._automatic.items():
            section, _, name = key.partition(".")
            values[section][name] = given
        return values


def _defers_space(info: ValidationInfo) -> bool:
    return isinstance(info.context, FromFile) and info.context.defers("space")


def _outside_space(search: SearchConfig, space: Any) -> Iterator[Rejected]:
    for architecture in search.initial_architectures if isinstance(space, SearchSpace) else ():
        if architecture not in space:
            path = ("initial_architectures",)
            yield Rejected("an architecture of the space", path=path, got=architecture.values())


def _measured_costs(search: SearchConfig) -> Iterator[Rejected]:
    for name in search.quantities:
        if name in COSTS and COSTS[name].is_measured:
            expected = "no measured cost with deterministic: true, since it is not reproducible"
            yield Rejected(expected, path=_path_of(search, name), got=name)


def _wrong_metrics(search: SearchConfig, data: DataConfig | None) -> Iterator[Rejected]:
    if data is None:  # which is reported
        return
    kind = data.label_kind
    allowed = ", ".join(metric_names(kind=kind))
    for name in search.quantities:
        if name in METRICS and not METRICS[name].applies_to(kind):
            yield Rejected(f"one of {allowed} for {_KINDS[kind]} data", path=_path_of(search, name), got=name)
    proxy = search.proxy_metric
    if proxy in METRICS and not METRICS[proxy].applies_to(kind):
        proxies = ", ".join(("objective", *metric_names(role="proxy", kind=kind)))
        yield Rejected(f"one of {proxies} for {_KINDS[kind]} data", path=("proxy_metric",), got=proxy)


_KINDS = {"single": "single-label", "multiple": "multi-label", "pairs": "retrieval"}


def _path_of(search: SearchConfig, quantity: str) -> tuple[str]:
    return ("objective",) if quantity in search.objectives else ("constraints",)
