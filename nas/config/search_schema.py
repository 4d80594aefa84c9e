"""The section `search` of the search file."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema, field_validator

from nas.common.units import MAX_COUNT
from nas.config.choices import AnswerKind, ReadoutChoice
from nas.config.section import Automatic, Expected, FromFile, Rejected, Section, rejections
from nas.config.values import MAX_BATCH, MAX_CHOICES, Flag, Integer, Number, OneOf, Text
from nas.search.costs import COSTS, CostModel
from nas.search.metric_registry import METRICS, metric_names
from nas.search.objectives import Constraint, Objectives
from nas.search.space import Architecture
from nas.search.space.family_registry import FAMILIES, load_architecture_class
from nas.search.strategies.base import EvolutionSettings
from nas.search.strategies.registry import STRATEGIES
from nas.search.trial import Stage


def _objectives(value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, list | tuple) else [value]
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise Rejected()
    if names[0] not in metric_names() or not set(names[1:]) <= set(COSTS):
        raise Rejected()
    return tuple(names)


def _constraints(value: Any) -> tuple[Constraint, ...]:
    if not isinstance(value, list | tuple):
        raise Rejected()
    found: list[Constraint] = []
    problems: list[Rejected] = []
    for entry in value[:MAX_CHOICES]:  # so many have problems anyway: there are fewer quantities
        try:
            constraint = entry if isinstance(entry, Constraint) else Constraint.parse(_text_of(entry))
        except ValueError as error:
            quantity, _, expected = str(error).partition(", got ")[0].rpartition("expected ")
            suffix = f" for {quantity.rstrip(': ')}" if quantity else ""
            problems.append(Rejected(f"{expected}{suffix}", got=entry))
            continue
        if any(other.quantity == constraint.quantity for other in found):
            problems.append(Rejected(f"one bound on {constraint.quantity}", got=entry))
        found.append(constraint)
    if problems:
        raise rejections(problems)
    return tuple(found)


def _text_of(entry: Any) -> str:
    return entry if isinstance(entry, str) else ""


def _architectures(value: Any) -> tuple[Architecture, ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_CHOICES:
        raise Rejected()
    found: list[Architecture] = []
    problems: list[Rejected] = []
    for entry in value:
        try:
            found.append(entry if isinstance(entry, Architecture) else Architecture.from_dict(entry))
        except (TypeError, ValueError, KeyError):
            problems.append(_no_architecture(entry))
    if problems:
        raise rejections(problems)
    return tuple(found)


def _no_architecture(entry: Any) -> Rejected:
    family = entry.get("family") if isinstance(entry, dict) else None
    if not isinstance(family, str) or family not in FAMILIES:
        return Rejected(str(_ARCHITECTURES), got=entry)
    genes = load_architecture_class(family).gene_names()
    got = {key: gene for key, gene in entry.items() if key != "family"}
    return Rejected(f"a mapping of {', '.join(genes)} to values", got=got)


_ARCHITECTURES = Expected(
    f"a list of at most {MAX_CHOICES:,} architectures of the space, each a mapping of genes to values"
)

ObjectiveNames = Annotated[
    tuple[str, ...],
    BeforeValidator(_objectives),
    PlainSerializer(lambda names: names[0] if len(names) == 1 else list(names)),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    Expected(lambda: f"one of {', '.join(metric_names())}, or a list of one of them and any of {', '.join(COSTS)}"),
]
Constraints = Annotated[
    tuple[Constraint, ...],
    BeforeValidator(_constraints),
    PlainSerializer(lambda constraints: [str(constraint) for constraint in constraints]),
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
    Expected("a list of bounds, for instance [peak_memory <= 2GiB]"),
]
Architectures = Annotated[
    tuple[Architecture, ...],
    BeforeValidator(_architectures),
    PlainSerializer(lambda architectures: [architecture.values() for architecture in architectures]),
    WithJsonSchema({"type": "array", "items": {"type": "object"}}),
    _ARCHITECTURES,
]


def _proxy_metrics() -> tuple[str, ...]:
    return ("objective", *metric_names(role="proxy"))


class EvolutionConfig(Section):
    """The settings of the evolutionary strategies."""

    population: Integer = Field(default=20, ge=2, le=100_000, description="The number of architectures per generation.")
    parents: Integer = Field(
        default=5, ge=1, le=100_000, description="The number of best architectures that children descend from."
    )
    crossover_fraction: Number = Field(
        default=0.5, ge=0, le=1, description="The fraction of children with two parents."
    )
    mutation_fraction: Number = Field(
        default=0.5, ge=0, le=1, description="The fraction of children that mutate one parent; the rest are random."
    )
    mutation_probability: Number = Field(
        default=0.3, ge=0, le=1, description="The probability that a mutation draws a gene again."
    )
    proposal_pool: Integer = Field(
        default=24,
        ge=1,
        le=100_000,
        description="The number of children that a surrogate model compares before the most promising one is proposed; "
        "1: no surrogate model. Only with `strategy: evolution`.",
    )

    @field_validator("parents")
    @classmethod
    def _parents_are_of_the_population(cls, value: int, info: ValidationInfo) -> int:
        population = info.data.get("population", value)
        if value > population:
            raise Rejected(f"at most the population of {population}")
        return value

    @field_validator("mutation_fraction")
    @classmethod
    def _fractions_sum_to_one(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("crossover_fraction", 0) + value > 1:
            raise Rejected("at most 1 together with crossover_fraction")
        return value

    def settings(self) -> EvolutionSettings:
        """Return the settings in the form that strategies take."""
        return EvolutionSettings(**dict(self))


class SearchConfig(Section):
    """The objective, the strategy, and the promotion of candidates from stage to stage.

    Every candidate is scored with the weights of the supernet. Of each `round_size` scored candidates the best
    `promotion_fraction` is trained for `short_training_steps`, which are fewer than those of a full training. The best
    `finalists` of those and the default architecture of the family are trained completely, from fresh weights. They
    then race: they are trained with up to `rerun_seeds` further seeds each, until the best is separated or the time is
    over.
    """

    strategy: Annotated[Text, OneOf(STRATEGIES.names)] = Field(default="evolution", description="The search strategy.")
    objectives: Annotated[
        ObjectiveNames,
        Automatic("accuracy; macro_f1_tuned where samples have several labels; mean_recall for retrieval"),
    ] = Field(
        validation_alias="objective",
        serialization_alias="objective",
        description="The validation metric to maximize. In a list, the costs that follow the metric are minimized; "
        "the result is a Pareto front. `macro_f1_tuned` and `micro_f1_tuned` count a label as predicted above the "
        "threshold that is tuned on validation, at which exported models predict; `macro_f1` and `micro_f1` above "
        "0.5.",
    )
    proxy_metric: Annotated[Text, OneOf(_proxy_metrics)] = Field(
        default="cross_entropy",
        description="The score that ranks candidates before full training: the metric, or the validation "
        "cross-entropy, which is less coarse; for retrieval `mean_reciprocal_rank`, its default there.",
    )
    constraints: Constraints = Field(default=(), description="Bounds on costs and metrics.")
    latency_batch: Integer = Field(
        default=1, ge=1, le=MAX_BATCH, description="The number of samples whose latency is measured."
    )
    eval_batch: Integer = Field(
        default=5,
        ge=1,
        le=10_000,
        description="The number of candidates that are scored together, so that they read the data once.",
    )
    round_size: Integer = Field(
        default=20, ge=1, le=1_000_000, description="The number of scored candidates after which some are promoted."
    )
    promotion_fraction: Number = Field(
        default=0.25, ge=0, le=1, description="The fraction of scored candidates that is promoted."
    )
    short_training_steps: Annotated[
        Integer, Automatic("`short_training_fraction` of the steps of a full training, or a tenth")
    ] = Field(ge=1, le=MAX_COUNT, description="The number of steps of short training.")
    short_training_fraction: Number | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="The number of steps of short training as a fraction of those of a full training, in place of "
        "`short_training_steps`; null: as in `short_training_steps`.",
    )
    short_training_lr_scale: Number = Field(
        default=0.1,
        gt=0,
        le=1,
        description="The learning rates of short training as a fraction of the recipe's. Large rates undo in few steps "
        "what the supernet has learned in many.",
    )
    finalists: Integer = Field(
        default=4,
        ge=1,
        le=10_000,
        description="The number of candidates that are trained completely, in addition to the family's default.",
    )
    rerun_seeds: Integer = Field(
        default=3,
        ge=0,
        le=100,
        description="The largest number of further seeds of each model in the race of the finalists and the default "
        "architecture. The last half of the time for full training is kept for it; 0 for no race.",
    )
    answer: AnswerKind = Field(
        default="auto",
        description="What the search exports: the best `single` model, the `ensemble` of its complete trainings, or "
        "`auto`: the ensemble where its gain on validation is not luck and it meets `constraints`.",
    )
    distill: Flag = Field(
        default=False,
        description="Whether the ensemble is distilled into one model: the architecture of its best member, trained on "
        "the labels and on the probabilities of the ensemble. The model is exported as `distilled`. Where a single "
        "model is the answer, it is this one if it is at least as good on validation.",
    )
    members: Integer = Field(
        default=4, ge=2, le=100, description="The largest number of different models in the ensemble."
    )
    readouts: ReadoutChoice = Field(
        default="linear",
        description="How the readout of each encoder is chosen among those of the space: `linear`: the linear "
        "classifier, which is solved first, decides on validation; `searched`: as any other gene.",
    )
    initial_architectures: Architectures = Field(
        default=(),
        description="Architectures to score first, after the default, the smallest, and the largest that fits.",
    )
    evolution: EvolutionConfig = Field(
        default=EvolutionConfig(), description="The settings of the evolutionary strategies."
    )

    @field_validator("promotion_fraction")
    @classmethod
    def _promotes_at_least_one(cls, value: float, info: ValidationInfo) -> float:
        round_size = info.data.get("round_size")
        if round_size is not None and round(round_size * value) < 1:
            raise Rejected(f"a fraction that promotes at least one of {round_size}")
        return value

    @field_validator("short_training_fraction")
    @classmethod
    def _has_one_length(cls, value: float | None, info: ValidationInfo) -> float | None:
        is_given = isinstance(info.context, FromFile) and not info.context.defers("search.short_training_steps")
        if value is not None and is_given and "short_training_steps" in info.data:
            steps = info.data["short_training_steps"]
            raise Rejected(f"null together with short_training_steps: {steps}, or one of the two")
        return value

    @property
    def objective(self) -> str:
        """The metric to maximize."""
        return self.objectives[0]

    @property
    def costs(self) -> tuple[str, ...]:
        """The costs to minimize."""
        return self.objectives[1:]

    def score_name(self, stage: Stage) -> str:
        """Return the name of the metric that is a candidate's score at a stage."""
        return self.objective if stage == "full" or self.proxy_metric == "objective" else self.proxy_metric

    def score_of(self, stage: Stage, metrics: Mapping[str, float]) -> float:
        """Return a candidate's score at a stage; higher is better."""
        name = self.score_name(stage)
        return METRICS[name].score(metrics[name])

    @property
    def wants_latency(self) -> bool:
        """Whether latency is measured, because a measured cost is an objective or bounded."""
        return any(COSTS[name].is_measured for name in self.quantities if name in COSTS)

    @property
    def quantities(self) -> tuple[str, ...]:
        """The metrics and costs in objectives and constraints."""
        return (*self.objectives, *(constraint.quantity for constraint in self.constraints))


def objectives_of(search: SearchConfig, model: CostModel | None = None) -> Objectives:
    """Return the objectives of a search.

    Args:
        search: The section of the search file.
        model: The costs of architectures, needed if there are costs among the objectives.
    """
    return Objectives(search.objective, search.costs, search.constraints, model)
