"""Count the operators of a training step on an accelerator from shapes alone, in seconds.

Views and allocations run no kernel and are not counted; an update of several tensors at once is one operator.
"""

from collections import Counter
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.models import DEMO, empty_encoders
from nas.common.devices import accelerator, product_dtype
from nas.common.precision import PRECISIONS, Precision
from nas.config.load import load_config
from nas.data.features.store import Batch
from nas.models.encoders.held_weights import hold_products_in
from nas.models.fusion.base import sizes_of
from nas.models.fusion.data_attention import DataAttention
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.pmf.model import PMF
from nas.models.fusion.token_places import TokenPlaces
from nas.run.tables import text_table
from nas.training.losses import Loss
from nas.training.trainer import Trainer

_NO_KERNEL = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "_unsafe_view", "lift_fresh")
_TEXT_TOKENS, _IMAGE_TOKENS, _CLASSES = 128, 197, 101


class OperatorCounter(TorchDispatchMode):
    """Counts the operators on a kind of device, by name.

    Args:
        kind: The kind of device.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kind = kind
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, outputs)) if isinstance(leaf, torch.Tensor)]
        name = func.overloadpacket.__name__
        is_counted = func.namespace == "aten" and name not in _NO_KERNEL and not _is_view(func)
        if is_counted and any(tensor.device.type == self._kind for tensor in tensors):
            self.counts["copy" if name in ("_to_copy", "copy_", "clone") else name] += 1
        return outputs


def _is_view(func: Any) -> bool:
    alias = func._schema.returns[0].alias_info if func._schema.returns else None
    return alias is not None and not alias.is_write


def step_operators(
    device: torch.device, *, size: str = "base", batch_size: int = 32, precision: Precision = "float32"
) -> Counter[str]:
    """Return the operators of a step of the default PMF architecture, from stored tokens and their attention.

    Nothing is waited for: operators whose result the host needs fail on tensors without data.

    Args:
        device: An accelerator.
        size: The size of ViT and BERT: `base` or `large`.
        batch_size: The number of samples, with texts of 128 tokens at most.
        precision: The precision of products.
    """
    recipe = load_config(DEMO).recipe.replace(precision=precision)
    with FakeTensorMode(), torch.device(device):
        image, text = empty_encoders(size)
        for encoder in (image, text):
            hold_products_in(encoder, product_dtype(precision))  # as workers do
        architecture = PMFArchitecture.default(sizes_of(image, text))
        model = PMF(image_encoder=image, text_encoder=text, architecture=architecture, num_classes=_CLASSES)
        trainer = Trainer(model=model, recipe=recipe, step_count=2, loss=Loss(None, recipe.label_smoothing, device))
        batch = _batch(batch_size, image.hidden_size, image.layers[0].projections.num_heads)
        counter = OperatorCounter(device.type)
        for _ in range(2):  # the first step creates the state of the optimizer
            counter.counts.clear()
            with counter:
                trainer.optimizer.zero_grad(set_to_none=True)
                trainer.accumulate_gradients([batch], batch_size)
                trainer.update(0, [architecture])
    return counter.counts


def count_table(size: str, batch_size: int) -> str:
    """Return a table of the operators of a step on the accelerator of this machine, the most frequent first.

    Raises:
        SystemExit: If there is no accelerator.
    """
    device = accelerator()
    if device is None:
        raise SystemExit("--count: this machine has no accelerator that PyTorch can use")
    counts = [step_operators(device, size=size, batch_size=batch_size, precision=precision) for precision in PRECISIONS]
    names = sorted(set().union(*counts), key=lambda name: (-counts[0][name], name))
    rows = [(name, *(str(count[name]) for count in counts)) for name in names]
    return text_table(("operator", *PRECISIONS), [("all", *(str(count.total()) for count in counts)), *rows])


def _batch(size: int, hidden_size: int, heads: int) -> Batch:
    """Return a batch without data, with a place for padding."""

    def attention(count: int) -> DataAttention:
        return DataAttention(torch.empty(size, count, hidden_size), torch.empty(size, count, heads))

    return Batch(
        image_tokens=torch.empty(size, _IMAGE_TOKENS, hidden_size),
        text_tokens=torch.empty(size, _TEXT_TOKENS, hidden_size),
        text_mask=torch.empty(size, _TEXT_TOKENS, dtype=torch.bool),
        labels=torch.empty(size, dtype=torch.int64),
        image_attention=attention(_IMAGE_TOKENS),
        text_attention=attention(_TEXT_TOKENS),
        text_places=TokenPlaces(torch.empty(size * _TEXT_TOKENS // 2, dtype=torch.int64), size * _TEXT_TOKENS // 2),
    )
