"""Operations of a training step of PMF in closed form, and the rates at which this machine computes them."""

import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.functional import linear

from nas.common.devices import CPU, synchronize
from nas.models.encoders.frozen_ops import product
from nas.models.fusion.pmf.model import PMF


def necessary_operations(model: PMF, batch_size: int, image_rows: int, text_rows: float, text_square: float) -> float:
    """Return the floating-point operations of the matrix products that one step needs, given z and t.

    In a modality with S data rows per sample, hidden size D, feed-forward width F and H heads, r rows cost

        project(r) = 2 · r · D²      complete(r) = project(r) + 2 · (2 · r · D · F)      meet(r) = 2 · r · S · D

    for one projection; output projection and feed-forward; scores over the data rows, or the weighted sum of these.
    All data rows cost

        first fusing layer   3 project(S) + 2 meet(S) + complete(S), backward complete(S): z and t are constants
        layers between       3 project(S) + 2 meet(S) + complete(S), backward complete(S) + 3 project(S) + 4 meet(S)
        last layer           nothing: only the output of the readout row is used

    The r = M_qp query rows (r = M_qp + 1 with the readout row in the last layer) cost complete(r) forward and backward.
    In the first and the last layer they also meet the data rows, by absorbed projections: 2 meet(H · r) forward, and
    backward 2 meet(H · r) if the data rows are constants, otherwise 4 meet(H · r). (In layers between, they reuse the
    keys and values of the data rows, at a negligible cost.) The message y costs 2 project(M_qp) for keys and values,
    forward and backward, and 2 · M_qp · (D_from · h + h · D_to) for the mapping, three times: forward, for the gradient
    of its input and for those of its weights. Prompts cost next to nothing, because all samples share them.

    Args:
        model: The model: an architecture with one value per gene, and its encoders.
        batch_size: The batch size B.
        image_rows: The number S of image tokens.
        text_rows: The mean number S of text tokens, without padding.
        text_square: The mean of S² over the texts.
    """
    operations, fusing = 0.0, model.architecture.prompted_layers(model.sizes)
    genes, _ = model.architecture.at(0)  # the same in every layer and direction
    widths = [encoder.hidden_size for encoder in model.encoders]
    sides = zip(model.encoders, (image_rows, text_rows), (image_rows**2, text_square), strict=True)
    for encoder, rows, square in sides:
        width, heads = encoder.hidden_size, int(encoder.config.num_attention_heads)
        hidden = int(encoder.config.intermediate_size)

        def complete(count: float, width: int = width, hidden: int = hidden) -> float:
            return 2 * count * width**2 + 2 * (2 * count * width * hidden)

        project, meet = 2 * rows * width**2, 2 * square * width
        for index in range(fusing):
            is_first, is_last = index == 0, index == fusing - 1
            if not is_last:
                operations += 3 * project + 2 * meet + 2 * complete(rows)
                operations += 0 if is_first else 3 * project + 4 * meet
            few = genes.query_prompts + is_last
            operations += 2 * complete(few)
            if is_first or is_last:
                operations += (4 if is_first else 6) * (2 * heads * few * rows * width)
            operations += 2 * 2 * (2 * genes.query_prompts * width**2)
    mapping = 2 * genes.query_prompts * genes.mapping_width * sum(widths)
    return batch_size * (operations + fusing * 2 * 3 * mapping)


def product_rates(rows: int, width: int, hidden: int, repeats: int, device: torch.device) -> dict[str, float]:
    """Return the operations per second of the first feed-forward product, by torch's `linear` and by the fast path."""
    x, weight, bias = (torch.randn(shape, device=device) for shape in ((rows, width), (hidden, width), (hidden,)))
    seconds: dict[str, list[float]] = {"linear": [], "fast path": []}
    with torch.no_grad():
        for _ in range(repeats + 1):
            for name, multiply in (("linear", linear), ("fast path", product)):
                seconds[name].append(seconds_of(lambda multiply=multiply: multiply(x, weight, bias), device))  # type: ignore[misc]
    # The first run is a warm-up. The median is the rate that the steps reach as well if the machine is shared.
    return {name: 2 * rows * width * hidden / statistics.median(times[1:]) for name, times in seconds.items()}


def seconds_of(step: Callable[[], object], device: torch.device = CPU) -> float:
    """Return the seconds of one call, including the work of its device."""
    synchronize(device)
    started = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - started
