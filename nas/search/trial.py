"""Jobs of a search, their results and their failures."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from nas.common.boundary import shown
from nas.common.errors import NasError, TrainingError
from nas.common.precision import PRECISIONS, Precision
from nas.common.seeds import seed_from
from nas.common.shortage import is_out_of_memory
from nas.search.keys import CandidateKey, ModelKey, key_from_json, key_to_json
from nas.search.recipe_tuning import AS_CONFIGURED, RecipeSetting
from nas.search.space import Architecture

Stage = Literal["one_shot", "short", "full"]
STAGES: tuple[Stage, ...] = ("one_shot", "short", "full")
"""Fidelities, cheapest first: scored with the weights of the supernet; trained from those weights for some steps;
trained completely from new weights. Scores of different stages are never compared."""


@dataclass(frozen=True)
class Job:
    """One stage of one model, to be run by a worker.

    Args:
        key: The key of the model; the same at all stages.
        architecture: The architecture to run.
        stage: The stage.
        step_count: The number of training steps; 0 for `one_shot`.
        seed: The seed of new weights and of the order of samples.
        predicted_peak_bytes: The predicted peak memory of this candidate.
        micro_batches: The number of micro-batches into which each batch is divided to fit the memory budget.
        correction_bytes: The correction of the prediction by measured peaks; may be negative.
        companions: Candidates that are scored in the same job; only for `one_shot`.
        learning_rate: A peak learning rate for all trained parameters, which replaces the recipe's rates and their
            scaling with depth; None to use the recipe.
        recipe: The setting of the recipe.
        taught_by: The full trainings of the members of an ensemble, with their weights; only of a job that computes
            what it teaches.
        inputs: The files that the job reads besides those of the run, by their paths in the run directory.
        most_devices: The largest number of devices that may share the training, each with a part of every batch.
    """

    key: ModelKey
    architecture: Architecture
    stage: Stage
    step_count: int
    seed: int
    predicted_peak_bytes: int
    micro_batches: int = 1
    correction_bytes: int = 0
    companions: tuple["Job", ...] = ()
    learning_rate: float | None = None
    recipe: RecipeSetting = AS_CONFIGURED
    taught_by: tuple[tuple["Job", float], ...] = ()
    inputs: tuple[str, ...] = ()
    most_devices: int = 1

    @property
    def trial(self) -> int:
        """The number of the candidate.

        Raises:
            ValueError: If the model is not a candidate of the search.
        """
        return _trial_of(self.key)

    @property
    def identity(self) -> tuple[ModelKey, Stage]:
        """The model and the stage: unique among the jobs of a search."""
        return self.key, self.stage

    @property
    def members(self) -> tuple["Job", ...]:
        """The job and its companions, each as a job without companions."""
        return (replace(self, companions=()), *self.companions)

    @property
    def reserved_bytes(self) -> int:
        """The memory to reserve: the largest peak of the members, which run one after another."""
        return max(member.predicted_peak_bytes + member.correction_bytes for member in self.members)


@dataclass(frozen=True)
class Result:
    """A finished job.

    Args:
        key: The key of the model.
        architecture: The architecture that was run.
        stage: The stage of the score.
        score: The score on validation, higher is better: the objective, or before full training the metric that
            `search.proxy_metric` names.
        metrics: All metrics on validation.
        step_count: The number of training steps of this stage.
        supernet_steps: The training steps of the supernet that the weights come from; 0 for `full`.
        seed: The seed of the job.
        seconds: The time in the worker; candidates that were scored in one job have an equal share each.
        predicted_peak_bytes: The predicted peak of the worker's private memory.
        measured_peak_bytes: The measured peak of the worker's private memory.
        micro_batches: The number of micro-batches into which each batch was divided.
        latency_seconds: The time of a forward pass from the base features; None if it was not measured.
        kept_freed_memory: Whether the worker kept freed memory, because it had room; its measured peak is then
            unrelated to the prediction.
        precision: The precision of products in training and evaluation.
        device_count: The number of devices that shared the training.
    """

    key: ModelKey
    architecture: Architecture
    stage: Stage
    score: float
    metrics: dict[str, float]
    step_count: int
    supernet_steps: int
    seed: int
    seconds: float
    predicted_peak_bytes: int
    measured_peak_bytes: int
    micro_batches: int = 1
    latency_seconds: float | None = None
    kept_freed_memory: bool = False
    precision: Precision = "float32"
    device_count: int = 1

    @property
    def longest_seconds(self) -> float:
        """The time that the same job takes at most on one device."""
        return self.seconds * self.device_count

    @property
    def trial(self) -> int:
        """The number of the candidate.

        Raises:
            ValueError: If the model is not a candidate of the search.
        """
        return _trial_of(self.key)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as nested plain values; `trial` holds the number of a candidate, else the key's name.

        Without a precision it is float32, and without a number of devices one, as in results from before there were
        others.
        """
        values = {name: getattr(self, name) for name in _FIELDS if name != "key"}  # `asdict` takes ten times as long
        plain = {"metrics": dict(self.metrics), "architecture": self.architecture.as_dict()}
        if self.precision == "float32":
            del values["precision"]
        if self.device_count == 1:
            del values["device_count"]
        return {"trial": key_to_json(self.key), **values, **plain}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Result":
        """Return the result that `as_dict` has stored.

        Raises:
            KeyError, TypeError, ValueError: If the values are not those of a result.
        """
        latency = values["latency_seconds"]
        if values["stage"] not in STAGES or not isinstance(values["kept_freed_memory"], bool):
            raise ValueError(f"stage {shown(values['stage'])}, kept_freed_memory {shown(values['kept_freed_memory'])}")
        counts = {name: to_count(name, values[name]) for name in _COUNTS}
        return cls(
            key=key_from_json(values["trial"]),
            architecture=Architecture.from_dict(values["architecture"]),
            stage=values["stage"],
            score=to_number("score", values["score"]),
            metrics={str(name): to_number(name, value) for name, value in values["metrics"].items()},
            seconds=to_number("seconds", values["seconds"]),
            latency_seconds=None if latency is None else to_number("latency_seconds", latency),
            kept_freed_memory=values["kept_freed_memory"],
            precision=_to_precision(values.get("precision", "float32")),
            device_count=to_count("device_count", values.get("device_count", 1)),
            **counts,
        )


def _to_precision(value: object) -> Precision:
    for precision in PRECISIONS:
        if value == precision:
            return precision
    raise ValueError(f"precision: expected {' or '.join(PRECISIONS)}, got {shown(value)}")


_FIELDS = tuple(field.name for field in fields(Result))

_COUNTS = (
    "step_count",
    "supernet_steps",
    "seed",
    "predicted_peak_bytes",
    "measured_peak_bytes",
    "micro_batches",
)


def to_count(name: str, value: object) -> int:
    """Return a stored value that is a count, a size or a seed.

    Args:
        name: The name of the value.
        value: The value.

    Raises:
        ValueError: If it is not one.
    """
    if type(value) is not int or not 0 <= value < 2**64:
        raise ValueError(f"{name}: expected a whole number from 0, got {shown(value)}")
    return value


def to_number(name: str, value: object) -> float:
    """Return a stored value that is a number, which may be infinite or not a number.

    Args:
        name: The name of the value.
        value: The value.

    Raises:
        ValueError: If it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or (isinstance(value, int) and abs(value) > 2**64):
        raise ValueError(f"{name}: expected a number, got {shown(value)}")
    return float(value)


FailureKind = Literal["error", "crash", "memory", "killed_externally", "environment"]
"""How a job failed: `error`, an exception in its code; `crash`, its worker crashed; `memory`, out of memory;
`killed_externally`, its worker was killed or its node was lost, for which the job is not responsible; `environment`, a
file that every job needs cannot be used (a full disk, a damaged supernet), which the next job cannot avoid either."""


@dataclass(frozen=True)
class Failure:
    """A job that did not finish.

    Args:
        job: The job.
        kind: The kind of the failure.
        cause: A short text that is equal for failures with the same cause.
        reason: A message about this failure.
        measured_peak_bytes: The measured peak memory of the worker if it ran out of memory; None if unknown.
    """

    job: Job
    kind: FailureKind
    cause: str
    reason: str
    measured_peak_bytes: int | None = None

    @classmethod
    def of(cls, job: Job, error: BaseException, measured_peak_bytes: int) -> "Failure":
        """Return the failure that corresponds to an exception in a worker."""
        text = " ".join(str(error).split())
        if is_out_of_memory(error):
            return cls(job, "memory", "out of memory", text, measured_peak_bytes)
        if isinstance(error, OSError | NasError) and not isinstance(error, TrainingError):
            return cls(job, "environment", type(error).__name__, text)
        return cls(job, "error", type(error).__name__, f"{type(error).__name__}: {text}")


def _trial_of(key: ModelKey) -> int:
    if not isinstance(key, CandidateKey):
        raise ValueError(f"{key.name}: has no trial number; expected a candidate of the search")
    return key.trial


_SEED_SALTS: Mapping[Stage, str] = {"one_shot": "inherited", "short": "trained", "full": "full"}
"""The salts of the seeds of each stage; another word would change the result of every search."""


def job_seed(search_seed: int, stage: Stage, architecture: Architecture, *, rerun: int = 0) -> int:
    """Return the seed of one job, which depends on nothing but the arguments.

    Short training starts from the supernet's weights, so the seed only determines the order of samples. All candidates
    get the same order, so that none has an advantage by chance (common random numbers).

    Args:
        search_seed: The seed of the search.
        stage: The stage of the job.
        architecture: The architecture of the job.
        rerun: The number of the rerun, from 1; 0 for the search's own training.
    """
    salt = _SEED_SALTS[stage]
    if stage == "short":
        return seed_from(search_seed, salt)
    if rerun:
        salt = f"{salt}, repetition {rerun}"
    return architecture_seed(search_seed, salt, architecture)


def architecture_seed(seed: int, salt: str, architecture: Architecture) -> int:
    """Return a seed that depends only on another seed, a word and an architecture."""
    genes: list[int | str] = []
    for gene in architecture.stated_genes:
        value = gene.plain(getattr(architecture, gene.name))
        genes.append(value if isinstance(value, int) else f"{gene.name} {value}" if gene.names else str(value))
    return seed_from(seed, salt, *genes)
