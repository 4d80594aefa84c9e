"""The training of the supernet that a worker takes part in."""

from nas.data.features.store import FeatureSplit
from nas.execution.base import SupernetJob
from nas.execution.worker_setup import WorkerSetup
from nas.training.supernet import SupernetTraining
from nas.training.supernet_sampling import build_sampler


def supernet_training(setup: WorkerSetup, job: SupernetJob, split: FeatureSplit) -> SupernetTraining:
    """Return the training of the supernet, the same in every process that shares it.

    Args:
        setup: The configuration of the search and the path of the checkpoint.
        job: The architectures that may be sampled.
        split: The training samples.
    """
    config = setup.config
    return SupernetTraining(
        split=split,
        sampler=build_sampler(
            config.supernet.sampling,
            space=job.space or config.space,
            count=config.supernet.architectures_per_step,
            seed=config.seed,
            is_feasible=job.is_feasible,
        ),
        recipe=config.recipe.with_setting(job.recipe),
        step_count=config.supernet.steps,
        seed=config.seed,
        checkpoint_path=setup.checkpoint_path,
        checkpoint_steps=config.supernet.checkpoint_steps,
        distillation=config.supernet.distillation,
        micro_batches=job.micro_batches_of,
    )
