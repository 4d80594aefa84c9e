"""One step of a pretraining against loops over samples, candidates and words in float64."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nas.data.features.store import FeatureSplit
from nas.search.pretraining import OBJECTIVES, Objective
from nas.training.batches import features_of_batch
from nas.training.objectives.momentum import average_of
from nas.training.pretraining.pairs import PairBatch, PairSchedule
from nas.training.pretraining.settings import PretrainingSettings
from nas.training.pretraining.step import Pretrainer
from tests.support.tiny_pairs import TinyPairs, TinyPretraining


def pairs_of(split: FeatureSplit, settings: PretrainingSettings, model: TinyPairs, count: int) -> list[PairBatch]:
    schedule = PairSchedule(
        split,
        batch_size=settings.recipe.batch_size,
        seed=3,
        entry_layers=model.entry_layers(),
        vocabulary=settings.vocabulary if "masked_language" in settings.objectives else None,
    )
    return list(schedule.pairs(0, count, torch.device("cpu")))


def log_softmax(row: Sequence[float]) -> list[float]:
    total = math.log(math.fsum(map(math.exp, row)))
    return [value - total for value in row]


class SlowStep:
    """The losses of one step from the embeddings and logits of one sample at a time.

    Args:
        student: The pretraining model.
        teacher: The same model with the weights of the momentum model.
        pairs: The pairs of the step.
        queue: The momentum embeddings and items of the pairs before, oldest first.
    """

    def __init__(
        self, student: TinyPretraining, teacher: TinyPretraining, pairs: PairBatch, queue: Sequence[PairBatch]
    ) -> None:
        self.pairs = pairs
        self.student, self.teacher = student, teacher
        self.own = [self._embeddings(student, pairs, index) for index in range(6)]
        entries = [(pairs, index) for index in range(6)] + [(old, index) for old in queue for index in range(6)]
        self.candidates = [self._embeddings(teacher, batch, index) for batch, index in entries]
        self.items = [(int(batch.items.images[index]), int(batch.items.texts[index])) for batch, index in entries]

    def _embeddings(self, model: TinyPretraining, pairs: PairBatch, index: int) -> tuple[list[float], list[float]]:
        features = features_of_batch(pairs.batch)
        images, texts = model.encode_images(features), model.encode_texts(features)
        rows = [images.rows[index, 0], texts.rows[index, 0]]
        found = []
        for row, linear in zip(rows, (model.contrastive.image, model.contrastive.text), strict=True):
            product = (linear.weight @ row + linear.bias).tolist()
            length = math.sqrt(math.fsum(value**2 for value in product))
            found.append([value / length for value in product])
        return found[0], found[1]

    def _matches(self, i: int, j: int) -> bool:
        return self.items[i][0] == self.items[j][0] or self.items[i][1] == self.items[j][1]

    def _row(self, own: Sequence[float], side: int, count: int | None = None) -> list[float]:
        temperature = float(self.student.temperature)
        chosen = self.candidates[:count]
        return [math.fsum(a * b for a, b in zip(own, each[side], strict=True)) / temperature for each in chosen]

    def contrastive(self, alpha: float) -> float:
        losses = []
        for i in range(6):
            for side in (0, 1):
                logs = log_softmax(self._row(self.own[i][side], 1 - side))
                soft = [math.exp(value) for value in log_softmax(self._row(self.candidates[i][side], 1 - side))]
                positives = [self._matches(i, j) for j in range(len(logs))]
                for j, log in enumerate(logs):
                    hard = positives[j] / sum(positives)
                    losses.append(-((1 - alpha) * hard + alpha * soft[j]) * log)
        return math.fsum(losses) / 12

    def matching(self, *, hard: bool) -> float:
        drawn: list[tuple[int, int]] = [(i, i) for i in range(6)]
        for side in (0, 1):
            for i in range(6):
                row = self._row(self.own[i][side], 1 - side, 6) if hard else [0.0] * 6
                noisy = [value + float(self.pairs.noise[side, i, j]) for j, value in enumerate(row)]
                best = max((j for j in range(6) if not self._matches(i, j)), key=noisy.__getitem__)
                drawn.append((i, best) if side == 0 else (best, i))
        features = features_of_batch(self.pairs.batch)
        images, texts = self.student.encode_images(features), self.student.encode_texts(features)
        losses = []
        for number, (i, j) in enumerate(drawn):
            logits = self.student.match(images.take(torch.tensor([i])), texts.take(torch.tensor([j])))
            losses.append(-log_softmax(logits[0].tolist())[int(number < 6)])
        return math.fsum(losses) / 18

    def masked_language(self, alpha: float) -> float:
        masked = self.pairs.masked
        assert masked is not None
        features = replace(features_of_batch(self.pairs.batch), text_tokens=masked.ids)
        losses = []
        for place, target in zip(masked.places.tolist(), masked.targets.tolist(), strict=True):
            rows = []
            for model in (self.student, self.teacher):
                images, texts = model.encode_images(features), model.encode_texts(features)
                rows.append(model.masked_token_logits(images, texts, torch.tensor([place]))[0].tolist())
            logs, soft = (log_softmax(row) for row in rows)
            distilled = math.fsum(math.exp(teacher) * log for teacher, log in zip(soft, logs, strict=True))
            losses.append(-(1 - alpha) * logs[target] - alpha * distilled)
        return math.fsum(losses) / len(losses)


@pytest.mark.parametrize(
    ("objectives", "alpha", "hard"),
    [
        (OBJECTIVES, 0.4, True),
        (OBJECTIVES, 0.0, False),
        (("contrastive",), 0.4, True),
        (("matching",), 0.4, True),
        (("masked_language",), 0.4, True),
    ],
)
def test_loss_of_a_step_equals_loops_over_samples_candidates_and_words(
    fresh: Callable[[], TinyPairs],
    split: FeatureSplit,
    settings: PretrainingSettings,
    objectives: tuple[Objective, ...],
    alpha: float,
    hard: bool,
) -> None:
    config = settings.config.replace(hard_negatives=hard)
    settings = replace(settings, config=config, objectives=objectives)
    pretrainer = Pretrainer(fresh(), settings)
    student = pretrainer.model.double()
    assert isinstance(student, TinyPretraining)
    teacher = TinyPretraining(fresh().double()).double()
    teacher.load_state_dict(student.state_dict())
    with torch.no_grad():  # a momentum model with weights of its own
        for name, parameter in teacher.named_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)).double())
            if pretrainer.average:
                pretrainer.average[name] = parameter.detach().clone()
    old, new = pairs_of(split, settings, student.model, 2)
    if "contrastive" in objectives:
        pretrainer.accumulate_gradients(old, alpha)
    loss = float(pretrainer.accumulate_gradients(new, alpha))
    with torch.no_grad():
        slow = SlowStep(student, teacher, new, [old])
        expected = 0.0
        if "contrastive" in objectives:
            expected += slow.contrastive(alpha)
        if "matching" in objectives:
            expected += slow.matching(hard=hard and "contrastive" in objectives)
        if "masked_language" in objectives:
            expected += slow.masked_language(alpha)
    assert loss == pytest.approx(expected, rel=1e-6)  # embeddings of the queue are kept in float32


def test_some_pairs_of_a_batch_share_their_text(
    fresh: Callable[[], TinyPairs], split: FeatureSplit, settings: PretrainingSettings
) -> None:
    batches = pairs_of(split, settings, fresh(), 6)
    assert any(len(set(batch.items.texts.tolist())) < 6 for batch in batches)
    assert all(len(set(batch.items.images.tolist())) == 6 for batch in batches)


def test_pairs_have_the_order_the_masks_and_the_noise_of_their_seed_wherever_they_start(
    fresh: Callable[[], TinyPairs], split: FeatureSplit, settings: PretrainingSettings
) -> None:
    model = fresh()

    def schedule(seed: int) -> PairSchedule:
        return PairSchedule(
            split, batch_size=6, seed=seed, entry_layers=model.entry_layers(), vocabulary=settings.vocabulary
        )

    def drawn(pairs: PairBatch) -> list[Tensor]:
        assert pairs.masked is not None
        return [pairs.batch.image_tokens, pairs.items.images, pairs.noise, pairs.masked.ids]

    device = torch.device("cpu")
    whole, rest = list(schedule(3).pairs(0, 9, device)), list(schedule(3).pairs(4, 9, device))
    for one, other in zip(whole[4:], rest, strict=True):
        assert all(torch.equal(first, second) for first, second in zip(drawn(one), drawn(other), strict=True))
    assert not torch.equal(whole[0].noise, next(schedule(4).pairs(0, 1, device)).noise)


def test_momentum_model_follows_the_weights_and_the_queue_takes_its_embeddings(
    fresh: Callable[[], TinyPairs], split: FeatureSplit, settings: PretrainingSettings
) -> None:
    pretrainer = Pretrainer(fresh(), settings)
    before = average_of(pretrainer.model)
    (pairs,) = pairs_of(split, settings, fresh(), 1)
    pretrainer.step(0, pairs, 0.0)
    assert any(not torch.equal(before[name], tensor) for name, tensor in pretrainer.model.named_parameters())
    for name, parameter in pretrainer.model.named_parameters():
        expected = 0.9 * before[name] + 0.1 * parameter.detach()
        torch.testing.assert_close(pretrainer.average[name], expected, rtol=1e-6, atol=1e-7)
    assert pretrainer.queue is not None and len(pretrainer.queue) == 6
    teacher = TinyPretraining(fresh())
    teacher.load_state_dict(before)
    with torch.no_grad():
        features = features_of_batch(pairs.batch)
        embeddings = teacher.embed(teacher.encode_images(features), teacher.encode_texts(features))
    kept = pretrainer.queue.state()
    torch.testing.assert_close(kept["images"][:6], embeddings[0])  # type: ignore[index]
    torch.testing.assert_close(kept["texts"][:6], embeddings[1])  # type: ignore[index]


@pytest.mark.parametrize(
    ("objectives", "distillation", "has_one"),
    [
        (("matching",), 0.4, False),
        (("masked_language",), 0.0, False),
        (("masked_language",), 0.4, True),
        (("contrastive",), 0.0, True),
    ],
)
def test_there_is_a_momentum_model_only_where_an_objective_reads_it(
    fresh: Callable[[], TinyPairs],
    settings: PretrainingSettings,
    objectives: tuple[Objective, ...],
    distillation: float,
    has_one: bool,
) -> None:
    config = settings.config.replace(distillation=distillation)
    pretrainer = Pretrainer(fresh(), replace(settings, config=config, objectives=objectives))
    assert bool(pretrainer.average) == has_one


def test_weight_of_the_momentum_model_rises_during_the_first_epoch(settings: PretrainingSettings) -> None:
    assert [settings.alpha(step, 4) for step in range(6)] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4])


def test_step_in_bfloat16_has_nearly_the_loss_of_float32(
    fresh: Callable[[], TinyPairs], split: FeatureSplit, settings: PretrainingSettings
) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)  # of the heads
        pretrainer = Pretrainer(fresh(), replace(settings, recipe=settings.recipe.replace(precision=precision)))
        first, second = pairs_of(split, settings, pretrainer.model.model, 2)  # type: ignore[arg-type]
        pretrainer.accumulate_gradients(first, 0.4)
        losses.append(float(pretrainer.accumulate_gradients(second, 0.4)))
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.03)
