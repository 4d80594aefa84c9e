"""The threads of one process that compute blocks of a feature build."""

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch

from nas.common.devices import is_accelerator
from nas.data.features.blocks import BlockBoard, BlockRecord, BlockSaver
from nas.data.features.decoding_processes import DecodingProcesses, can_fork
from nas.data.features.encode import BatchEncoder, EncodedBatch
from nas.data.features.inputs import FeatureSources, InputRange, SplitInputs
from nas.data.features.plan import FeaturePlan
from nas.data.features.preparing import Preparation, prepare_inputs
from nas.data.features.threads import BuildThreads
from nas.data.features.writer import ArrayFiles
from nas.models.encoders.base import Encoder

_PREPARING_THREADS = 3


@dataclass(frozen=True)
class BlockWork:
    """The blocks of a build, and what they are computed from.

    Args:
        blocks: All blocks.
        splits: Inputs of every split, by name.
        sources: The data and the encoders, on the device that computes.
        plan: The plan of the store.
        image_shape: Shape of the pixel values of an image.
        copies: Copies of both encoders on further accelerators, each of which computes blocks of its own.
    """

    blocks: Sequence[InputRange]
    splits: Mapping[str, SplitInputs]
    sources: FeatureSources
    plan: FeaturePlan
    image_shape: tuple[int, ...]
    copies: Sequence[tuple[Encoder, Encoder]] = ()


@dataclass(frozen=True)
class _Encoded:
    """A batch whose rows may still be computed, the record of its block, and whether it is the last of the block."""

    batch: InputRange
    result: EncodedBatch
    record: BlockRecord
    is_last: bool


class BuildCrew:
    """Claims, computes, writes and records blocks; to be closed by `close`.

    Args:
        work: The blocks.
        files: The arrays to write to.
        board: Claims and records of the blocks.
        threads: The threads that compute: on an accelerator one for each device. With one core for a batch, each
            prepares its own inputs; otherwise further threads prepare them meanwhile, for accelerators processes on all
            cores.
    """

    def __init__(self, work: BlockWork, files: ArrayFiles, board: BlockBoard, threads: BuildThreads) -> None:
        self.board = board
        self._work = work
        self._files = files
        self._threads = threads
        sources = work.sources
        self._encoders = [
            BatchEncoder(
                encoders,
                work.plan,
                work.splits,
                work.image_shape,
                sources.images.location,
                sources.allows_float16,
            )
            for encoders in ((sources.image_encoder, sources.text_encoder), *work.copies)
        ]
        self._batches_ahead = 1 if is_accelerator(sources.device) else 0
        ahead = min(threads.per_batch // 2, _PREPARING_THREADS)
        if is_accelerator(sources.device):
            ahead = -(-threads.per_batch // threads.count)
        self._preparation = Preparation(work.splits, sources, ahead)
        self._next = 0
        self._claimed: set[int] = set()
        self._computed = 0
        self._mutex = threading.Lock()
        self._stopping = threading.Event()

    @property
    def done(self) -> int:
        """The number of views of images and of texts that this process has computed, or others have recorded."""
        self.board.refresh_if_due()
        blocks = self._work.blocks
        return self._computed + sum(blocks[block].count for block in self.board.received if block not in self._claimed)

    def is_written(self, record: BlockRecord) -> bool:
        """Return whether the rows of a block are on disk as another process has recorded them."""
        return record.is_intact(self._files)

    def compute(self) -> Generator[None]:
        """Compute blocks until all are finished or claimed by other processes, and record them.

        Yields:
            After every batch.

        Raises:
            DataError: If an image cannot be read, or a feature exceeds the storage type.
            OSError: If a file cannot be written.
        """
        self._start_processes()
        with BlockSaver(self._files, self.board.record) as saver, _thread_count_kept():
            if self._threads.count == 1:
                yield from self._compute_blocks(saver, self._encoders[0])
            else:
                yield from self._compute_in_threads(saver)
            saver.finish()

    def _start_processes(self) -> None:
        """Start the processes that decode images for accelerators, one for each core, unless they would not help."""
        cores, work, finished = self._threads.per_batch, self._work, self.board.finished
        images = [
            block.count
            for number, block in enumerate(work.blocks)
            if block.modality == "image" and number not in finished
        ]
        is_needed = is_accelerator(work.sources.device) and images and cores > 1 and can_fork()
        if not is_needed or self._preparation.processes is not None:
            return
        processes = DecodingProcesses(
            work.splits,
            work.sources,
            image_shape=work.image_shape,
            largest=max(images),
            count=min(cores, len(images)),
            waiting=2 * self._threads.count,
        )
        self._preparation = replace(self._preparation, processes=processes)

    def close(self) -> None:
        """End the processes that decode images."""
        if self._preparation.processes is not None:
            self._preparation.processes.close()

    def _compute_in_threads(self, saver: BlockSaver) -> Iterator[None]:
        events: queue.SimpleQueue[bool] = queue.SimpleQueue()

        def compute(encoder: BatchEncoder) -> None:
            try:
                for _ in self._compute_blocks(saver, encoder):
                    events.put(True)
            except BaseException:
                self._stopping.set()  # the other threads end, too
                raise
            finally:
                events.put(False)

        running = self._threads.count
        with ThreadPoolExecutor(running) as pool:
            try:
                # On the CPU all threads share one encoder.
                futures = [pool.submit(compute, encoder) for encoder in islice(cycle(self._encoders), running)]
                while running:
                    if events.get():
                        yield
                    else:
                        running -= 1
            finally:
                self._stopping.set()
        self._stopping.clear()
        for future in futures:
            future.result()

    def _compute_blocks(self, saver: BlockSaver, encoder: BatchEncoder) -> Iterator[None]:
        torch.set_num_threads(self._threads.per_batch)
        claimed: deque[tuple[InputRange, BlockRecord]] = deque()
        inputs = prepare_inputs(self._batches(claimed), self._preparation)
        encoded: deque[_Encoded] = deque()
        with closing(inputs):
            for batch, values, mask in inputs:
                block, record = claimed[0]
                is_last = batch.stop == block.stop
                encoded.append(_Encoded(batch, encoder.encode(batch, values, mask), record, is_last))
                if is_last:
                    claimed.popleft()
                if len(encoded) > self._batches_ahead:
                    self._write(encoded.popleft(), saver)
                    yield
                if self._stopping.is_set():
                    return
            for rest in encoded:
                self._write(rest, saver)
                yield

    def _write(self, encoded: "_Encoded", saver: BlockSaver) -> None:
        for rows in encoded.result.rows():
            self._files.write(rows.name, rows.first_row, rows.values)
            encoded.record.add(rows)
        if encoded.is_last:
            saver.add(encoded.record)
        with self._mutex:
            self._computed += encoded.batch.count

    def _batches(self, claimed: deque[tuple[InputRange, BlockRecord]]) -> Iterator[InputRange]:
        """Claim blocks, and yield their batches."""
        while not self._stopping.is_set() and (index := self._claim()) is not None:
            block = self._work.blocks[index]
            claimed.append((block, BlockRecord(index)))
            # A GPU needs many rows at a time, a core few that stay in its cache.
            yield from [block] if self._batches_ahead else self._work.splits[block.split].batches(block)

    def _claim(self) -> int | None:
        with self._mutex:
            count, start = len(self._work.blocks), self._next
            index = self.board.claim((start + step) % count for step in range(count))
            if index is not None:
                self._next = index + 1
                self._claimed.add(index)
            return index


@contextmanager
def _thread_count_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
