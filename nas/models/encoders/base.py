"""The interface of every frozen encoder: embeddings, a stack of layers, and what a classifier reads of the last one.

Shapes: B samples, R tokens, S attended tokens, H heads, D hidden size.
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel

from nas.common.vml_workaround import resolve_vector_functions
from nas.models.encoders.contrastive import PROJECTION, head_of
from nas.models.encoders.layers import EncoderLayer, attention, merge_heads


class Encoder(nn.Module, ABC):
    """A pretrained transformer with all weights frozen and dropout off; `trainable_copy` makes one to fine-tune.

    Args:
        model: The Hugging Face model that holds the weights; the keys of `state_dict` are its own, under `model.`.
        layers: Views of its layers, first to last.
        embedding: The modules that only `embed` and `as_embeddings` use.
    """

    readout: ClassVar[Literal["first", "last", "all"]] = "first"
    """Tokens that the head reads: the first (CLS), the last token of each sample, or all of them."""

    def __init__(self, model: PreTrainedModel, layers: Sequence[EncoderLayer], embedding: Sequence[nn.Module]) -> None:
        super().__init__()
        resolve_vector_functions()
        self.model: Any = model
        # Tuples keep these views of the model out of the module's state.
        self._layers, self._embedding = tuple(layers), tuple(embedding)
        self._stack = _name_of_stack(model, [layer.module for layer in layers])
        self.model.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Encoder":
        """Stay in evaluation mode: stored features and shared keys and values are exact only without dropout.

        Dropout stays off where the weights are trained, too. `encoder.model.train()` turns it on; then only whole
        layers apply it.
        """
        del mode
        return super().train(False)

    @property
    def config(self) -> PreTrainedConfig:
        """The configuration of the checkpoint."""
        config: PreTrainedConfig = self.model.config
        return config

    @property
    def layers(self) -> Sequence[EncoderLayer]:
        """The layers, first to last."""
        return self._layers

    @property
    def embedding(self) -> Sequence[nn.Module]:
        """The modules that only `embed` and `as_embeddings` use."""
        return self._embedding

    @property
    def num_layers(self) -> int:
        """The number of layers."""
        return len(self.layers)

    @property
    def hidden_size(self) -> int:
        """The hidden size D."""
        return int(self.config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tokens between layers: that of the norms, since products may be held in another."""
        norms = (module for module in self.model.modules() if isinstance(module, nn.LayerNorm))
        return next(norms).weight.dtype

    @property
    def projection(self) -> nn.Module | None:
        """What maps the results of `pool` into the space of both encoders, (B, D) → (B, E).

        None where the checkpoint has no contrastive head, or it was not loaded.
        """
        found: nn.Module | None = getattr(self.model, PROJECTION, None)
        return found

    @property
    def logit_scale(self) -> float | None:
        """The factor of the cosines in that space, 1 / temperature; None without a contrastive head."""
        head = head_of(self.config)
        return None if head is None else head.logit_scale

    @property
    def max_text_tokens(self) -> int:
        """The maximum number of tokens of a text, special tokens included: the positions of a text encoder."""
        return int(self.config.max_position_embeddings)

    @abstractmethod
    def embed(self, inputs: Tensor) -> Tensor:
        """Return the input of the first layer: pixel values (B, 3, height, width) or token ids (B, R) → (B, R, D)."""

    def token_vectors(self, ids: Tensor) -> Tensor:
        """Return the embeddings of tokens without their positions, (B, R) → (B, R, D), of a text encoder."""
        vectors: Tensor = self.model.get_input_embeddings()(ids)
        return vectors

    def embed_vectors(self, vectors: Tensor) -> Tensor:
        """Return the input of the first layer for vectors in place of `token_vectors`, (B, R, D) → (B, R, D)."""
        rows: Tensor = self.model.embeddings(inputs_embeds=vectors)
        return rows

    @property
    def embedding_norm(self) -> nn.Module | None:
        """The last step of the embeddings, where it is a norm over the hidden size that takes tokens of any source."""
        norm: Any = getattr(getattr(self.model, "embeddings", self.embedding[0]), "LayerNorm", None)
        return None if norm is None or norm.normalized_shape != (self.hidden_size,) else norm

    def as_embeddings(self, rows: Tensor) -> Tensor:
        """Apply the last step of the embeddings to tokens of another source, (B, R, D) → (B, R, D).

        That step is `embedding_norm`; without one, nothing.
        """
        normed: Tensor = rows if self.embedding_norm is None else self.embedding_norm(rows)
        return normed

    @abstractmethod
    def finish(self, rows: Tensor) -> Tensor:
        """Apply what follows the last layer, token by token: (B, R, D) → (B, R, D)."""

    def pool(self, rows: Tensor) -> Tensor:
        """Return the classifier's input, given the finished readout tokens: (B, R', D) → (B, D)."""
        return rows[:, 0]

    @property
    def pools_by_mean(self) -> bool:
        """Whether `pool` returns the mean of all tokens."""
        return False

    def drop_unread(self, *, pooling: bool) -> None:
        """Remove weights that are never read, for a model that trains all its weights.

        Args:
            pooling: Whether to remove the weights that only `pool` reads, too.
        """
        del pooling
        for module in self.model.modules():
            token = getattr(module, "mask_token", None)
            if token is not None:
                del module.mask_token  # only pretraining masks patches
                # DINOv2 with registers initializes the attribute unconditionally.
                module.register_buffer("mask_token", torch.zeros_like(token), persistent=False)

    def keep_layers(self, count: int) -> None:
        """Remove all layers but the first ones, for a model that trains those alone.

        Args:
            count: The number of layers to keep.

        Raises:
            ValueError: If the model has no module that holds the layers.
        """
        if self._stack is None:
            raise ValueError(f"{type(self.model).__name__}: no module holds its layers; they cannot be removed")
        stack: Any = self.model.get_submodule(self._stack)
        del stack[count:]
        self._layers = self._layers[:count]

    def keep_embedding(self) -> None:
        """Remove everything but what `embed` reads, for a model that trains that alone; no layer remains."""
        kept = {id(parameter) for module in self.embedding for parameter in module.parameters()}
        self._layers, self._stack = (), None
        _remove_others(self.model, kept)

    def data_bias(self, mask: Tensor | None, row_count: int, dtype: torch.dtype) -> Tensor | None:
        """Return the additive bias between the encoder's own tokens: padding, and any causal or relative bias.

        Args:
            mask: (B, R), true where there is a token; None where nothing is padded.
            row_count: The number of tokens R.
            dtype: The dtype of the bias.

        Returns:
            A tensor that broadcasts to (B, H, R, R), or None where every token attends to every token.
        """
        del row_count
        return None if mask is None else padding_bias(mask, dtype)

    def readout_rows(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """Return the tokens that the head reads: (B, R, D) → (B, R', D).

        Args:
            rows: All tokens.
            mask: (B, R), true where there is a token, padding at the end; None where nothing is padded.
        """
        if self.readout == "all":
            return rows
        if self.readout == "first":
            return rows[:, :1]
        if mask is None:
            return rows[:, -1:]
        return rows.gather(1, last_tokens(mask)[:, None, None].expand(-1, -1, rows.shape[2]))

    def readout_bias(self, bias: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """Return the rows of a `data_bias` that belong to the readout tokens; broadcasts to (B, H, R', R)."""
        if bias is None or bias.shape[2] == 1 or self.readout == "all":
            return bias
        if self.readout == "first":
            return bias[:, :, :1]
        if mask is None:
            return bias[:, :, -1:]
        last = last_tokens(mask)[:, None, None, None]  # (B, 1, 1, 1)
        bias = bias.expand(mask.shape[0], -1, -1, -1)
        return bias.gather(2, last.expand(-1, bias.shape[1], 1, bias.shape[3]))

    def run(self, rows: Tensor, bias: Tensor | None, *, start: int, stop: int, whole: bool = False) -> Tensor:
        """Run tokens through the layers start, …, stop − 1.

        Args:
            rows: The tokens, (B, R, D).
            bias: Additive bias over the tokens, broadcasting to (B, H, R, R), or None.
            start: The first layer.
            stop: The first layer that is not run.
            whole: Whether to call the layers of transformers themselves, as `run_module` does.
        """
        if whole:
            for module in self.layer_modules()[start:stop]:
                rows = self.run_module(module, rows, bias)
            return rows
        for layer in self.layers[start:stop]:
            normalized = layer.normalize(rows)
            context = layer.keys_values_of(normalized)
            attended = attention(layer.queries(normalized), context, bias, layer.projections.scale)
            rows = layer.complete(rows, merge_heads(attended))
        return rows

    def layer_modules(self) -> list[nn.Module]:
        """Return the layers of transformers as they are now, replaced ones included."""
        if self._stack is None:
            return [layer.module for layer in self.layers]
        return list(self.model.get_submodule(self._stack).children())

    def run_module(self, module: nn.Module, rows: Tensor, bias: Tensor | None) -> Tensor:
        """Call a layer of transformers with everything that was changed in it: replaced modules, hooks, dropout.

        Args:
            module: The layer.
            rows: The tokens, (B, R, D).
            bias: Additive bias over the tokens, broadcasting to (B, H, R, R), or None.
        """
        if bias is not None:
            bias = bias.expand(-1, -1, rows.shape[1], -1)
        # transformers does this in training mode only, and the encoders stay in evaluation mode.
        if getattr(module, "gradient_checkpointing", False) and torch.is_grad_enabled() and not module.training:
            output = checkpoint(module, rows, bias, use_reentrant=False)
        else:
            output = module(rows, bias)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result


def _remove_others(module: nn.Module, kept: set[int]) -> None:
    """Replace the submodules that hold parameters, but none of some, by modules without any.

    Args:
        module: The module whose submodules are replaced.
        kept: The identities of the parameters to keep.
    """
    for name, child in list(module.named_children()):
        held = {id(parameter) for parameter in child.parameters()}
        if held and not held & kept:
            setattr(module, name, nn.Identity())
        else:
            _remove_others(child, kept)


def _name_of_stack(model: PreTrainedModel, layers: Sequence[nn.Module]) -> str | None:
    """Return the name of the module whose children are the layers; None if they have no common parent."""
    name: str
    for name, module in model.named_modules():
        children = list(module.children())
        if len(children) == len(layers) and all(map(operator.is_, children, layers)):
            return name
    return None


def last_tokens(mask: Tensor) -> Tensor:
    """Return the position of the last token of every sample, (B,), given where there is a token, (B, R)."""
    return (mask * torch.arange(mask.shape[1], device=mask.device)).amax(dim=1)


def mean_over_tokens(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over the tokens that are not padding, (B, R, D) → (B, D).

    Args:
        rows: All tokens.
        mask: (B, R), true where there is a token; None where nothing is padded.
    """
    if mask is None:
        return rows.mean(dim=1)
    return (rows * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def padding_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias that hides padding: mask (B, R), true where there is a token → (B, 1, 1, R) of 0 and −inf."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))[:, None, None, :]
