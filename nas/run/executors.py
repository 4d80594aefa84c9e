"""Build the executor of a search and the set-up of its workers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nas.common.devices import AUTO, CPU, accelerator, device_of, is_accelerator
from nas.common.files import default_cache_directory
from nas.config.schema import Config
from nas.execution.base import Executor
from nas.execution.placement import Placement
from nas.execution.worker_setup import WorkerSetup
from nas.models.encoders.partial_checkpoint import save_tail
from nas.models.fusion.base import sizes_of
from nas.run.callbacks import Callback
from nas.run.checks import mask_vocabulary
from nas.run.prepare import SearchContext, build_features, first_layers


@dataclass(frozen=True)
class ExecutionOptions:
    """Where a search runs and how many workers it has; no result of a deterministic search depends on them.

    Args:
        worker_count: The number of Ray workers; None for as many as cores, GPUs and memory allow; 0 runs everything in
            this process.
        cache_directory: The directory of cached encoder outputs on every node; None for the user's cache.
        ray_address: The address of a Ray cluster to join; None starts a private Ray on this machine.
        storage: The URL of the database that holds the study; None for a journal in the run directory or, for an
            existing run, for the storage that it was started with.
        verify: Whether to hash data, encoders and cached encoder outputs even if their sizes and times are known.
        accepts_changes: Whether to accept a study that lost or changed records; see `Study`.
        device: Where workers compute: `auto`, on GPUs where there are some; `cpu`; or a GPU that has to be there, such
            as `cuda` or, without Ray workers, `cuda:1`.
        callbacks: What is called while the search runs; see `nas.Callback`.
        log_to: The loggers that the run is to have besides those of its earlier sessions.
    """

    worker_count: int | None = None
    cache_directory: Path | None = None
    ray_address: str | None = None
    storage: str | None = None
    verify: bool = False
    accepts_changes: bool = False
    device: str = AUTO
    callbacks: tuple[Callback, ...] = ()
    log_to: tuple[str, ...] = ()

    @property
    def own_device(self) -> torch.device:
        """The device of this process.

        Raises:
            ExecutionError: If this machine lacks a device that has to be there.
        """
        if self.worker_count == 0:
            return device_of(self.device)
        return (None if self.device == CPU.type else accelerator()) or CPU  # GPUs may be on other nodes only

    @property
    def workers_device(self) -> torch.device:
        """The device of the workers, or one like it: it may be on other nodes only.

        Raises:
            ExecutionError: If this machine lacks a device that has to be there.
        """
        own = self.own_device
        return own if self.device in (AUTO, CPU.type) or is_accelerator(own) else torch.device(self.device)

    @property
    def cache(self) -> Path:
        """The cache directory, with the default resolved."""
        return self.cache_directory or default_cache_directory()


def write_worker_setup(config: Config, prepared: SearchContext, directory: Path, thread_count: int) -> WorkerSetup:
    """Describe the search to its workers, and write the frozen weights that they map from disk.

    Args:
        config: The configuration of the search.
        prepared: The encoders and features of the search.
        directory: The run directory.
        thread_count: The number of threads of one worker.
    """
    encoders = (prepared.image_encoder, prepared.text_encoder)
    setup = WorkerSetup(
        config=config,
        image_config=prepared.image_encoder.config,
        text_config=prepared.text_encoder.config,
        first_layers=first_layers(config, sizes_of(*encoders)),
        feature_directory=prepared.store.directory.resolve(),
        run_directory=directory.resolve(),
        thread_count=thread_count,
        class_texts=prepared.class_texts,
        vocabulary=mask_vocabulary(config, prepared.preprocessor.tokenizer, config.name),
    )
    for encoder, start, path in zip(encoders, setup.first_layers, setup.frozen_paths, strict=True):
        save_tail(encoder, start, path, config.recipe.precision)
    return setup


def build_executor(
    setup: WorkerSetup,
    options: ExecutionOptions,
    prepared: SearchContext,
    *,
    run_id: str,
    on_note: Callable[[str], None],
) -> Executor:
    """Start Ray workers, or use this process where the options ask for 0 workers.

    Args:
        setup: The set-up of the workers.
        options: The number of workers and the cluster.
        prepared: The search's memory predictions.
        run_id: The name of the run on other nodes.
        on_note: Callback that receives messages about nodes and workers.

    Raises:
        ExecutionError: If the cluster does not exist or no node of it can run workers.
    """
    config, memory = setup.config, prepared.memory
    if options.worker_count == 0:
        from nas.execution.serial import SerialExecutor

        return SerialExecutor(replace(setup, device=str(options.own_device)))
    from nas.execution.ray.executor import RayExecutor  # Ray takes seconds to import, and not every command needs it

    placement = Placement(
        worker_count=options.worker_count,
        most_by_memory=config.budget.memory_bytes // memory.predict(prepared.default).peak_bytes,
        threads=config.threads if config.deterministic else None,
        device=options.device,
        predicts_gpus=is_accelerator(options.workers_device),
    )
    return RayExecutor(
        setup,
        placement=placement,
        address=options.ray_address,
        run_id=run_id,
        cache_directory=options.cache_directory,
        find_features=build_features,
        on_note=on_note,
    )
