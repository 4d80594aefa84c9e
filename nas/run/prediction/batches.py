"""Compute the outputs of a model for a stream of inputs, while other threads read the pictures of the next batches.

A window of a few batches of inputs is read at a time. Its texts are sorted by their number of tokens, so that little
padding is computed, and its outputs are put back into the order of the inputs. At most three batches of pictures are in
memory, as pixel values.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nas.common.errors import DataError, NasError
from nas.data.inputs import Input
from nas.data.preprocessing import Preprocessor

BATCH_SIZE = 32
"""The default number of samples that are computed at once."""

_WINDOW_BATCHES = 4
_BATCHES_AHEAD = 2
_MAX_THREADS = 4

OpenImage = Callable[[str], Image.Image]
"""Returns the image of an input in RGB, or raises a DataError."""
Compute = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Returns the outputs of a batch, (B, K), given pixel values, token ids and their mask."""


class Outcome(NamedTuple):
    """The output of the model for an input.

    Args:
        input: The input.
        values: The output, (K,); None if the input cannot be predicted.
        error: Why it cannot be; None if it can.
    """

    input: Input
    values: Tensor | None
    error: NasError | None = None


@dataclass
class _Window:
    """Inputs that are put back into their order.

    Args:
        outcomes: The outcomes so far, in order; None where there is none yet.
        missing: The number of outcomes that are missing.
    """

    outcomes: list[Outcome | None]
    missing: int

    def put(self, place: int, outcome: Outcome) -> None:
        self.outcomes[place] = outcome
        self.missing -= 1

    def finished(self) -> list[Outcome]:
        """Return all outcomes once none is missing; before that none."""
        return [] if self.missing else [outcome for outcome in self.outcomes if outcome is not None]


class _Entry(NamedTuple):
    """An input of a batch, with its place in the window and its tokens."""

    place: int
    input: Input
    token_ids: NDArray[np.int32]


class _Batch(NamedTuple):
    window: _Window
    entries: Sequence[_Entry]


def predict_inputs(
    inputs: Iterable[Input],
    *,
    preprocessor: Preprocessor,
    open_image: OpenImage,
    compute: Compute,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Outcome]:
    """Yield the outcome of every input, in order.

    Args:
        inputs: The inputs; they are read as they are needed.
        preprocessor: The image processor and the tokenizer.
        open_image: Opens the image of an input; it is called in several threads.
        compute: Computes a batch.
        batch_size: The number of inputs that are computed at once; affects results only by rounding.
    """
    pending: deque[tuple[_Batch, list[Future[Tensor | NasError]]]] = deque()
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS), thread_name_prefix="images")

    def read(name: str) -> Tensor | NasError:
        try:
            return preprocessor.pixel_values([open_image(name)])
        except NasError as error:
            return error

    try:
        for batch in _batches(inputs, preprocessor, batch_size):
            pending.append((batch, [pool.submit(read, entry.input.image) for entry in batch.entries]))
            if len(pending) > _BATCHES_AHEAD:
                yield from _finish(*pending.popleft(), preprocessor, compute)
        while pending:
            yield from _finish(*pending.popleft(), preprocessor, compute)
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(inputs: Iterable[Input], preprocessor: Preprocessor, batch_size: int) -> Iterator[_Batch]:
    """Yield batches of inputs with texts of similar length; others have an outcome already."""
    stream = iter(inputs)
    while chosen := list(itertools.islice(stream, batch_size * _WINDOW_BATCHES)):
        window = _Window([None] * len(chosen), len(chosen))
        entries = []
        for place, (entry, ids) in enumerate(
            zip(chosen, preprocessor.token_ids([entry.text for entry in chosen]), strict=True)
        ):
            error = entry.error or ("" if len(ids) else preprocessor.empty_text(entry.text))
            if error:
                window.put(place, Outcome(entry, None, DataError(error)))
            else:
                entries.append(_Entry(place, entry, ids))
        if len(entries) > batch_size:
            entries.sort(key=lambda entry: len(entry.token_ids))
        # A window in which nothing is left to compute is an empty batch, so that its outcomes are yielded in turn.
        for start in range(0, max(len(entries), 1), batch_size):
            yield _Batch(window, entries[start : start + batch_size])


def _finish(
    batch: _Batch, futures: Sequence[Future[Tensor | NasError]], preprocessor: Preprocessor, compute: Compute
) -> list[Outcome]:
    """Compute a batch and return the outcomes of its window if it is the last one."""
    read = list(zip(batch.entries, (future.result() for future in futures), strict=True))
    usable = [(entry, pixels) for entry, pixels in read if isinstance(pixels, Tensor)]
    for entry, pixels in read:
        if isinstance(pixels, NasError):
            batch.window.put(entry.place, Outcome(entry.input, None, pixels))
    if usable:
        ids, mask = preprocessor.pad([entry.token_ids for entry, _ in usable])
        values = compute(torch.cat([pixels for _, pixels in usable]), ids, mask)
        for (entry, _), row in zip(usable, values, strict=True):
            if row.isfinite().all():
                outcome = Outcome(entry.input, row)
            else:
                outcome = Outcome(entry.input, None, DataError("the outputs of the model are not finite"))
            batch.window.put(entry.place, outcome)
    return batch.window.finished()


def checked_outcomes(outcomes: Iterable[Outcome], source: str | None = None) -> Iterator[Outcome]:
    """Yield outcomes up to the first error, which is raised.

    Args:
        outcomes: The outcomes.
        source: The table, if the message of an error is to name its row.

    Raises:
        NasError: If an input cannot be predicted.
    """
    for outcome in outcomes:
        if outcome.error is not None:
            if source is None or outcome.input.error:
                raise outcome.error
            raise DataError(f"{source}, row {outcome.input.number}: {outcome.error}") from outcome.error
        yield outcome
