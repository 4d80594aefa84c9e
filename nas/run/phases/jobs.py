"""Make the jobs of a search."""

from nas.config.schema import Config
from nas.run.feasibility import Feasibility
from nas.search.keys import ModelKey, RerunKey
from nas.search.space import Architecture
from nas.search.trial import Job, Stage, job_seed


class JobFactory:
    """Makes jobs, with a seed that depends on nothing but the model, and with the predicted peak.

    Args:
        config: The configuration of the search.
        feasibility: The rule for what fits the memory budget.
    """

    def __init__(self, config: Config, feasibility: Feasibility) -> None:
        self._seed = config.seed
        self._feasibility = feasibility

    def job(self, key: ModelKey, architecture: Architecture, stage: Stage, step_count: int) -> Job | None:
        """Return the job of one stage of one model; None if it does not fit. Every rerun has its own seed.

        Args:
            key: The key of the model.
            architecture: The architecture of the model.
            stage: The stage.
            step_count: The number of training steps.
        """
        fit = self._feasibility.fit(architecture)
        if fit is None:
            return None
        return Job(
            key=key,
            architecture=architecture,
            stage=stage,
            step_count=step_count,
            seed=job_seed(self._seed, stage, architecture, rerun=key.number if isinstance(key, RerunKey) else 0),
            predicted_peak_bytes=fit.peak_bytes,
            micro_batches=fit.micro_batches,
            correction_bytes=fit.correction_bytes,
        )
