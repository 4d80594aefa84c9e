"""One step of a pretraining: ALBEF's (Li et al., NeurIPS 2021, arXiv 2107.07651, section 3).

The losses of all objectives are added (equation 5). The momentum model embeds the pairs of the batch, which then join
the queue, and its weights follow those that are trained.

Shapes: B pairs, E size of contrastive embeddings, M masked tokens, V tokens of the vocabulary.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nas.common.devices import computing_in, has_fused_updates, is_accelerator
from nas.models.fusion.base import Features, FusionModel
from nas.models.fusion.pretraining import Pretrainable, PretrainingModel, TokenStates
from nas.training.batches import features_of_batch
from nas.training.objectives.contrastive import PairItems, PairQueue, contrastive_loss, known_positives, similarities
from nas.training.objectives.masked_language import MaskedTexts, masked_language_loss
from nas.training.objectives.matching import matching_loss, matching_pairs
from nas.training.objectives.momentum import average_of, update_average, weights_replaced
from nas.training.optimizer import build_optimizer, set_learning_rates
from nas.training.pretraining.pairs import PairBatch
from nas.training.pretraining.settings import PretrainingSettings
from nas.training.step_losses import StepLosses
from nas.training.trainer import learning_rate_factor


@dataclass(frozen=True)
class _MomentumOutputs:
    """What the momentum model computes for a batch: embeddings, (B, E) each, and logits of masked tokens, (M, V)."""

    embeddings: tuple[Tensor, Tensor] | None = None
    token_logits: Tensor | None = None


class Pretrainer:
    """The optimizer, the momentum model and the queue of one pretraining.

    Args:
        model: The model, whose weights are trained in place.
        settings: The settings.
    """

    def __init__(self, model: FusionModel, settings: PretrainingSettings) -> None:
        if not isinstance(model, Pretrainable):
            raise TypeError(f"{type(model).__name__}: cannot be pretrained; expected a method pretraining_model")
        device = model.device
        pretraining = model.pretraining_model()
        # The values of the heads are drawn on the CPU, so that they do not depend on the device.
        self.model: PretrainingModel = pretraining.to(device) if is_accelerator(device) else pretraining
        self.settings = settings
        self.device = device
        self.optimizer = build_optimizer(self.model, settings.recipe, device)
        self.losses = StepLosses(device)
        """The losses of the steps; `finish` them before the weights are saved."""
        self.average = average_of(self.model) if settings.has_momentum_model else {}
        """The weights of the momentum model, by the names of the parameters; empty without one."""
        self.queue: PairQueue | None = None
        """The queue; None until the size of the embeddings is known."""

    def step(self, index: int, pairs: PairBatch, alpha: float) -> None:
        """Train one step; `losses` receives the loss before the step.

        Args:
            index: The number of the step, from 0.
            pairs: The pairs, on the host.
            alpha: The weight of the momentum model's targets.

        Raises:
            TrainingError: If a loss is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)  # before the forward pass, to free the previous gradients
        self.losses.add(index, self.accumulate_gradients(pairs, alpha)[None])
        self._update(index)

    def text_step(self, index: int, pairs: PairBatch) -> None:
        """Train one step on texts alone, in which only `PretrainingModel.text_weights` learn.

        It needs less memory than a step on pairs with the same masked texts, and does not use the moving average.

        Args:
            index: The number of the step, from 0.
            pairs: The texts, on the host.

        Raises:
            TrainingError: If a loss is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.add(index, self.accumulate_text_gradients(pairs)[None])
        self._update_weights(index, self.settings.config.text_steps)

    def accumulate_text_gradients(self, pairs: PairBatch) -> Tensor:
        """Run the forward and backward passes of a step on texts alone; return the loss, 0-dimensional.

        Args:
            pairs: The texts, on the host.
        """
        with self._only_texts_learn():
            pairs = pairs.to(self.device)
            with self._computing():
                loss = self._text_loss(pairs)
            torch.autograd.backward(loss)
        return loss.detach()

    def _text_loss(self, pairs: PairBatch) -> Tensor:
        """Return the loss of masked words, given texts alone, 0-dimensional."""
        masked, model = pairs.masked, self.model
        if masked is None:
            return _zero(model)
        texts = model.encode_texts(replace(features_of_batch(pairs.batch), text_tokens=masked.ids))
        return masked_language_loss(model.text_token_logits(texts, masked.places), masked.targets)

    def start_pairs(self) -> None:
        """Start the steps on pairs after those on texts, with a new optimizer state and moving average."""
        self.optimizer = build_optimizer(self.model, self.settings.recipe, self.device)
        if self.average:
            update_average(self.average, self.model, 0.0)

    @contextmanager
    def _only_texts_learn(self) -> Iterator[None]:
        """Freeze all weights but those that learn from texts: the optimizer skips weights without gradients."""
        learning = {id(weight) for weight in self.model.text_weights()}
        frozen = [entry for entry in self.model.parameters() if entry.requires_grad and id(entry) not in learning]
        for entry in frozen:
            entry.requires_grad_(False)
        try:
            yield
        finally:
            for entry in frozen:
                entry.requires_grad_(True)

    def accumulate_gradients(self, pairs: PairBatch, alpha: float) -> Tensor:
        """Run the forward and backward passes, which determine the peak memory of a step; fill the queue.

        Args:
            pairs: The pairs, on the host.
            alpha: The weight of the momentum model's targets.

        Returns:
            The loss, 0-dimensional.
        """
        pairs = pairs.to(self.device)
        with self._computing():
            momentum = self._momentum_outputs(pairs, distils=alpha > 0)
            loss = self._loss(pairs, momentum, alpha)
        torch.autograd.backward(loss)
        if self.queue is not None and momentum.embeddings is not None:
            self.queue.add(*momentum.embeddings, pairs.items)
        return loss.detach()

    def fill_queue(self, pairs: PairBatch) -> None:
        """Create a full queue for the embeddings of a batch, to measure what a step then needs.

        Args:
            pairs: The pairs, on the host.
        """
        embeddings = self._momentum_outputs(pairs.to(self.device), distils=False).embeddings
        if embeddings is not None:
            self.queue = PairQueue(self.settings.config.queue_size, embeddings[0].shape[1], self.device)
            self.queue.fill()

    def momentum_tensors(self) -> list[Tensor]:
        """Return the weights of the momentum model, and the content of the queue."""
        return [*self.average.values(), *([] if self.queue is None else self.queue.tensors())]

    def _computing(self) -> AbstractContextManager[object]:
        return computing_in(self.settings.recipe.precision, self.device)

    @torch.no_grad()
    def _momentum_outputs(self, pairs: PairBatch, *, distils: bool) -> _MomentumOutputs:
        """Compute what the momentum model says of a batch, without a graph."""
        if not self.average:
            return _MomentumOutputs()
        model, features = self.model, features_of_batch(pairs.batch)
        with weights_replaced(model, self.average):
            images, embeddings, logits = model.encode_images(features), None, None
            if "contrastive" in self.settings.objectives:
                embeddings = model.embed(images, model.encode_texts(features))
            if distils and pairs.masked is not None:
                logits = _token_logits(model, images, features, pairs.masked)
        return _MomentumOutputs(embeddings, logits)

    def _loss(self, pairs: PairBatch, momentum: _MomentumOutputs, alpha: float) -> Tensor:
        """Return the sum of the losses of all objectives, 0-dimensional (equation 5)."""
        model, features, objectives = self.model, features_of_batch(pairs.batch), self.settings.objectives
        images, losses = model.encode_images(features), []
        by_similarity: tuple[Tensor, Tensor] | None = None
        is_positive = known_positives(pairs.items, pairs.items)
        if "contrastive" in objectives or "matching" in objectives:
            texts = model.encode_texts(features)
        if "contrastive" in objectives:
            assert momentum.embeddings is not None, "the momentum model embeds the batch"
            loss, by_similarity = self._contrastive(model.embed(images, texts), momentum.embeddings, pairs.items, alpha)
            losses.append(loss)
        if "matching" in objectives:
            if by_similarity is None or not self.settings.config.hard_negatives:
                by_similarity = torch.zeros_like(pairs.noise[0]), torch.zeros_like(pairs.noise[0])
            chosen = matching_pairs(*by_similarity, is_positive, pairs.noise)
            logits = model.match(images.take(chosen.images), texts.take(chosen.texts))
            losses.append(matching_loss(logits, chosen))
        if pairs.masked is not None:
            logits = _token_logits(model, images, features, pairs.masked)
            losses.append(masked_language_loss(logits, pairs.masked.targets, momentum.token_logits, alpha))
        return torch.stack(losses).sum() if losses else _zero(model)

    def _contrastive(
        self, own: tuple[Tensor, Tensor], momentum: tuple[Tensor, Tensor], items: PairItems, alpha: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the contrastive loss, and the similarities within the batch, (B, B) each, without a graph."""
        if self.queue is None:
            self.queue = PairQueue(self.settings.config.queue_size, momentum[0].shape[1], self.device)
        images, texts, candidates = self.queue.candidates(*momentum, items)
        temperature = self.model.temperature
        found = similarities(own[0], texts, temperature), similarities(own[1], images, temperature)
        soft = None
        if alpha:
            fixed = temperature.detach()
            soft = similarities(momentum[0], texts, fixed), similarities(momentum[1], images, fixed)
        loss = contrastive_loss(found, known_positives(items, candidates), soft, alpha)
        count = len(own[0])
        return loss, (found[0].detach()[:, :count], found[1].detach()[:, :count])

    def _update(self, index: int) -> None:
        """Update the weights with the gradients, and the momentum model with the weights."""
        self._update_weights(index, self.settings.config.steps)
        if self.average:
            update_average(self.average, self.model, self.settings.config.momentum)

    def _update_weights(self, index: int, step_count: int) -> None:
        """Update the weights with the gradients.

        Args:
            index: The number of the step, from 0.
            step_count: The number of steps, which the schedule of the learning rate spans.
        """
        recipe, architecture = self.settings.recipe, self.model.model.architecture
        factor = learning_rate_factor(index, step_count, recipe)
        set_learning_rates(self.optimizer, factor, [architecture.prompted_layers(self.model.model.sizes)], recipe)
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm, foreach=has_fused_updates(self.device))
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        """Return everything that a later process needs to continue, for `load`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "queue": None if self.queue is None else self.queue.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned.

        Args:
            state: The state.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, tensor in self.average.items():
            tensor.copy_(state["average"][name])
        if state["queue"] is not None:
            width = state["queue"]["images"].shape[1]
            self.queue = PairQueue(self.settings.config.queue_size, width, self.device)
            self.queue.load(state["queue"])


def _token_logits(model: PretrainingModel, images: TokenStates, features: Features, masked: MaskedTexts) -> Tensor:
    """Return the logits of masked tokens, (M, V)."""
    texts = model.encode_texts(replace(features, text_tokens=masked.ids))
    return model.masked_token_logits(images, texts, masked.places)


def _zero(model: nn.Module) -> Tensor:
    """Return a loss of 0 with a graph, of a batch without anything to learn from."""
    return torch.stack([parameter.sum() for parameter in model.parameters()]).sum() * 0.0
