"""Prepare the inputs of the encoders while these compute."""

from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from nas.common.devices import is_accelerator
from nas.data.features.decoding_processes import DecodingProcesses
from nas.data.features.inputs import FeatureSources, InputRange, SplitInputs, pixel_values

_COLLECTING_THREADS = 2

_Inputs = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Preparation:
    """What prepares inputs.

    Args:
        splits: Inputs of every split, by name.
        sources: The data to prepare.
        ahead: The number of batches that are prepared while the encoders compute, each by a thread or a process; 0 to
            prepare them in between.
        processes: The processes that decode images; None for threads.
    """

    splits: Mapping[str, SplitInputs]
    sources: FeatureSources
    ahead: int
    processes: DecodingProcesses | None = None

    def inputs(self, batch: InputRange) -> _Inputs:
        """Return the inputs of a batch, prepared now; see `prepare_inputs`."""
        split = self.splits[batch.split]
        if batch.modality == "text":
            ids, mask = self.sources.preprocessor.pad(split.token_ids(batch))
            return ids, None if bool(mask.all()) else mask
        pixels = pixel_values(split.images[batch.start : batch.stop], split.views, self.sources)
        return pixels.pin_memory() if is_accelerator(self.sources.device) else pixels, None

    def submit(self, batch: InputRange, pool: ThreadPoolExecutor) -> Future[_Inputs]:
        """Start to prepare the inputs of a batch.

        Args:
            batch: The batch.
            pool: The threads.
        """
        processes = self.processes
        if processes is None or batch.modality == "text":
            return pool.submit(self.inputs, batch)
        decoding, slot = processes.start(batch)
        return pool.submit(lambda: (processes.collect(batch, decoding, slot), None))


def prepare_inputs(
    batches: Iterable[InputRange], preparation: Preparation
) -> Generator[tuple[InputRange, Tensor, Tensor | None]]:
    """Yield every batch with its inputs.

    Args:
        batches: The batches in order; only a few of them are taken ahead.
        preparation: What prepares their inputs.

    Yields:
        The batch; pixel values (B, 3, height, width) or token ids (B, T); and the mask of the tokens (B, T), or None
        for images and for texts without padding.

    Raises:
        DataError: If an image cannot be read.
        ExecutionError: If a process that decodes images has died.
    """
    ahead = preparation.ahead
    if not ahead:
        for batch in batches:
            yield batch, *preparation.inputs(batch)
        return
    pending: deque[tuple[InputRange, Future[_Inputs]]] = deque()
    pool = ThreadPoolExecutor(ahead if preparation.processes is None else _COLLECTING_THREADS)
    try:
        for batch in batches:
            pending.append((batch, preparation.submit(batch, pool)))
            if len(pending) > ahead:
                first, result = pending.popleft()
                yield first, *result.result()
        for first, result in pending:
            yield first, *result.result()
    finally:
        pool.shutdown(cancel_futures=True)
