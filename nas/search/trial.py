"""What is known of a candidate after one stage, and how it was obtained."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from nas.common.errors import NasError, TrainingError
from nas.common.seeds import seed_from
from nas.search.keys import CandidateKey, ModelKey, key_from_json, key_to_json
from nas.search.space import Architecture

Stage = Literal["one_shot", "short", "full"]
STAGES: tuple[Stage, ...] = ("one_shot", "short", "full")
"""Fidelities, cheapest first: the supernet's weights as they are; trained on for some steps; trained in full from fresh
weights. Scores of different stages are never ranked together."""


@dataclass(frozen=True)
class Job:
    """One stage of one model, to be run by a worker.

    Args:
        key: The key of the model; the same at all stages.
        architecture: What to run.
        stage: How.
        step_count: Training steps; 0 for `inherited`.
        seed: Decides fresh weights and the order of samples.
        predicted_peak_bytes: Of this candidate alone.
        micro_batches: Parts that every batch is cut into, so that it fits.
        correction_bytes: What measured peaks have added to the prediction, or taken from it.
        companions: Candidates that are scored together with it, at the same stage; only for `inherited`.
        learning_rate: Peak of all that is trained alike, in place of the recipe's rates and depth scaling.
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

    @property
    def trial(self) -> int:
        """The number of the candidate.

        Raises:
            ValueError: If the model is not a candidate of the search.
        """
        return _trial_of(self.key)

    @property
    def identity(self) -> tuple[ModelKey, Stage]:
        """The model and the stage, which no two jobs of a search share."""
        return self.key, self.stage

    @property
    def members(self) -> tuple["Job", ...]:
        """The job and its companions, each by itself."""
        return (replace(self, companions=()), *self.companions)

    @property
    def reserved_bytes(self) -> int:
        """What it needs: members take turns, so that is the largest of their peaks."""
        return max(member.predicted_peak_bytes + member.correction_bytes for member in self.members)


@dataclass(frozen=True)
class Result:
    """A finished job.

    Args:
        key: The key of the model.
        architecture: What was run.
        stage: How the score was obtained.
        score: On validation, higher is better: the objective, or before full training what `search.proxy_metric` says.
        metrics: All metrics on validation.
        step_count: Training steps of this stage.
        supernet_steps: Steps of the supernet whose weights were inherited; 0 for `full`.
        seed: Of this job.
        seconds: Time in the worker; of candidates that were scored together, an equal share each.
        predicted_peak_bytes: Private memory of the worker, predicted.
        measured_peak_bytes: The same, measured.
        micro_batches: Parts that every batch was cut into.
        latency_seconds: Of a forward pass from the base features, where a search asks for it.
        kept_freed_memory: Whether the worker had room to keep what it freed; if so, its peak says nothing of the
            prediction.
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

    @property
    def trial(self) -> int:
        """The number of the candidate.

        Raises:
            ValueError: If the model is not a candidate of the search.
        """
        return _trial_of(self.key)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as nested plain values; `trial` holds the number of a candidate, else the key's name."""
        values = asdict(self)
        del values["key"]
        return {"trial": key_to_json(self.key), **values, "architecture": self.architecture.as_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Result":
        """Return the result that `as_dict` has stored.

        Raises:
            KeyError, TypeError, ValueError: If the values are not those of a result.
        """
        plain = dict(values)
        key, architecture = key_from_json(plain.pop("trial")), Architecture.from_dict(plain.pop("architecture"))
        return cls(key=key, architecture=architecture, **plain)


FailureKind = Literal["error", "crash", "memory", "killed_externally", "environment"]
"""How a job failed: an error in its code; its worker crashed by its own doing; it ran out of memory; its worker was
ended from outside (a kill, a lost node), which says nothing about it; or a file that every job needs cannot be used (a
full disk, a damaged supernet), which says nothing about it either, and is no better for the next one."""


@dataclass(frozen=True)
class Failure:
    """A job that did not finish.

    Args:
        job: Which.
        kind: How it failed.
        cause: The same for failures of one cause.
        reason: What happened this time, for people.
        measured_peak_bytes: Of its worker, where it ran out of memory and somebody measured it.
    """

    job: Job
    kind: FailureKind
    cause: str
    reason: str
    measured_peak_bytes: int | None = None

    @classmethod
    def of(cls, job: Job, error: BaseException, measured_peak_bytes: int) -> "Failure":
        """The failure that an error in a worker means."""
        text = " ".join(str(error).split())
        if is_out_of_memory(error):
            return cls(job, "memory", "out of memory", text, measured_peak_bytes)
        if isinstance(error, OSError | NasError) and not isinstance(error, TrainingError):
            return cls(job, "environment", type(error).__name__, text)
        return cls(job, "error", type(error).__name__, f"{type(error).__name__}: {text}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator, of the host or of a device, said no."""
    # torch.OutOfMemoryError is CUDA's; the host's allocator raises a plain RuntimeError.
    by_name = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return isinstance(error, MemoryError) or by_name or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _trial_of(key: ModelKey) -> int:
    if not isinstance(key, CandidateKey):
        raise ValueError(f"{key.name}: has no trial number; expected a candidate of the search")
    return key.trial


_SEED_SALTS: Mapping[Stage, str] = {"one_shot": "inherited", "short": "trained", "full": "full"}
"""What the seeds of a stage are derived from; another word would change the result of every search."""


def job_seed(search_seed: int, stage: Stage, architecture: Architecture, *, rerun: int = 0) -> int:
    """Return the seed of one job, which depends on nothing but the arguments.

    Short training starts from the supernet's weights, and only the order of its samples is drawn: all candidates get
    one order, so that none is ahead by luck (common random numbers).

    Args:
        search_seed: The seed of the search.
        stage: The stage of the job.
        architecture: The architecture that is run.
        rerun: The number of the rerun, from 1; 0 for the search's own training.
    """
    salt = _SEED_SALTS[stage]
    if stage == "short":
        return seed_from(search_seed, salt)
    if rerun:
        salt = f"{salt}, repetition {rerun}"
    return architecture_seed(search_seed, salt, architecture)


def architecture_seed(seed: int, salt: str, architecture: Architecture) -> int:
    """Return a seed that depends on another seed, a word and an architecture, and on nothing else."""
    genes: list[int | str] = []
    for value in architecture.values().values():
        genes.append(value if isinstance(value, int) else str(value))
    return seed_from(seed, salt, *genes)
