"""Train the small CLIP on 2 CPU cores, resumably.

What was chosen, and why:
- The first `frozen_layers` layers of the image side, which cost most of a step and know clip art already, stay as they
  are in most steps. Their rows for some views of each picture are computed once (`views`); a step reads them from a
  memory map and computes two image layers on half of the patches and the text side. That is about a tenth of the
  operations of a whole step.
- The last `whole_share` of the steps train everything from the pixels, the extra LayerNorm (`pre_layrnorm`) included.
- Pictures have the size of the demo's encoder, 64 pixels, and batches 256 pairs, since contrastive learning lives from
  its negatives, and more pairs do not make a step more efficient on 2 cores.
- 800 steps are 8 passes over the icons and 48 over the clip art, which is half of every batch. They take 20 minutes of
  one core, and the rows of the frozen layers 5 (AVX-512, bfloat16).
- The schedule counts steps, not time: a slow machine and interruptions do not change the result.

Every step draws its batch from a generator of its own number, so a run that was killed and resumed computes what an
uninterrupted one does.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel

from benchmarks.suite.small_clip.loss import contrastive_loss, equal_pairs
from benchmarks.suite.small_clip.pairs import Material, Note, random_text
from benchmarks.suite.small_clip.views import cached_rows, keep_patches, lower_rows, picked, random_views, upper_readout
from nas.common.errors import DataError
from nas.common.files import replace_atomically

CHECKPOINT, ROWS = "checkpoint.pt", "rows.npy"
_MAX_SCALE = 100.0
_REPORT_SECONDS, _SAVE_SECONDS = 30.0, 120.0
_SMOOTHING = 0.95

Tokenize = Callable[[list[str]], Tensor]
"""Returns the token ids of texts, (B, T) int64."""


@dataclass(frozen=True)
class Recipe:
    """The settings of the training.

    Args:
        steps: The number of steps.
        batch: The pairs of a step.
        frozen_layers: The image layers that are trained at the end only.
        views: The views of each picture whose rows are kept.
        kept_patches: The patches of a picture that a step reads.
        text_rate: The highest learning rate of the text side and the projections.
        image_rate: That of the image side.
        weight_decay: The weight decay of matrices.
        warm_up: The share of the steps over which the rates rise.
        whole_share: The share of the steps, at the end, that train the whole image side.
        whole_batch: The pairs of such a step.
        first_share: The share of the first source in a batch.
        seed: The seed.
    """

    steps: int = 800
    batch: int = 256
    frozen_layers: int = 10
    views: int = 3
    kept_patches: int = 32
    text_rate: float = 1e-3
    image_rate: float = 2e-4
    weight_decay: float = 0.1
    warm_up: float = 0.03
    whole_share: float = 0.1
    whole_batch: int = 128
    first_share: float = 0.5
    seed: int = 20

    def is_whole(self, step: int) -> bool:
        """Return whether a step trains the whole image side."""
        return step >= self.steps * (1 - self.whole_share)

    def rate_share(self, step: int) -> float:
        """Return the share of the highest learning rate: a linear warm-up, then half a cosine."""
        warm = self.steps * self.warm_up
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / (self.steps - warm)))


QUICK = Recipe(steps=6, batch=8, views=2, whole_share=0.34, whole_batch=4)
"""A few steps, to try the program."""


class Training:
    """A training run in a work folder, which holds its checkpoint and the rows of the frozen layers.

    Args:
        model: The untrained model, if there is no checkpoint; the same for equal seeds.
        material: The pairs.
        tokenize: Returns the token ids of texts.
        recipe: The settings.
        work: The work folder.
        note: Receives lines of progress.

    Raises:
        DataError: If the checkpoint is of other settings.
    """

    def __init__(
        self, model: CLIPModel, material: Material, tokenize: Tokenize, recipe: Recipe, work: Path, note: Note
    ) -> None:
        self.model, self.recipe = model, recipe
        self.step, self.seconds = 0, 0.0
        self._material, self._tokenize, self._work, self._note = material, tokenize, work, note
        self._optimizer = self._make_optimizer()
        self._chances = _chances(material, recipe.first_share)
        self._keys = [pair.key for pair in material.pairs]
        if (work / CHECKPOINT).exists():
            self._load()
        else:
            work.mkdir(parents=True, exist_ok=True)
            self.save()
        self._rows = self._frozen_rows()

    @property
    def is_done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.recipe.steps

    def run(self, minutes: float) -> None:
        """Train until all steps are done or the time is over, and save.

        Args:
            minutes: The time, of this call.
        """
        began = reported = saved = time.monotonic()
        spent, reported_step = self.seconds, self.step
        loss: float | None = None
        while not self.is_done and time.monotonic() - began < 60 * minutes:
            now = self.train_step()
            loss = now if loss is None else _SMOOTHING * loss + (1 - _SMOOTHING) * now
            self.seconds = spent + time.monotonic() - began
            if (passed := time.monotonic() - reported) > _REPORT_SECONDS or self.is_done:
                rate = 60 * (self.step - reported_step) / passed
                epochs = rate * self.recipe.batch / len(self._keys)
                self._note(
                    f"step {self.step} of {self.recipe.steps}, {self.seconds / 60:.1f} min, {rate:.1f} steps/min "
                    f"({epochs:.2f} epochs/min), loss {loss:.3f}, scale {self.model.logit_scale.exp().item():.1f}"
                )
                reported, reported_step = time.monotonic(), self.step
            if time.monotonic() - saved > _SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self.save()

    def train_step(self) -> float:
        """Take one step, and return its loss."""
        recipe, model = self.recipe, self.model
        rng = np.random.default_rng((recipe.seed, self.step))
        whole = recipe.is_whole(self.step)
        count = recipe.whole_batch if whole else recipe.batch
        index = np.sort(rng.choice(len(self._keys), count, replace=False, p=self._chances))
        texts = [random_text(self._material.pairs[one], rng) for one in index]
        positive = equal_pairs([self._keys[one] for one in index], texts)
        self._set_rates()
        ids = self._tokenize(texts)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image = model.visual_projection(self._readout(index, rng, whole=whole))
            # No mask: padding follows the end-of-text token, which the causal layers do not let see it.
            text = model.text_projection(model.text_model(ids).pooler_output)
        image, text = (F.normalize(side.float(), dim=1) for side in (image, text))
        loss = contrastive_loss(image, text, model.logit_scale.exp(), positive)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(_MAX_SCALE))
        self.step += 1
        return float(loss.detach())

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            "recipe": asdict(self.recipe),
            "pairs": len(self._keys),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        with replace_atomically(self._work / CHECKPOINT) as path:
            torch.save(state, path)

    def _load(self) -> None:
        state = torch.load(self._work / CHECKPOINT, weights_only=True)
        wanted = {"recipe": asdict(self.recipe), "pairs": len(self._keys)}
        if (found := {key: state[key] for key in wanted}) != wanted:
            raise DataError(f"{self._work / CHECKPOINT}: of another training; expected {wanted}, got {found}")
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _frozen_rows(self) -> NDArray[np.float16]:
        """Return the rows of the frozen layers; steps that train these layers come after all that read the rows."""
        recipe = self.recipe
        return cached_rows(
            self.model.vision_model,
            self._material.pictures,
            recipe.frozen_layers,
            recipe.views,
            self._work / ROWS,
            self._note,
            recipe.seed,
        )

    def _readout(self, index: NDArray[np.int64], rng: np.random.Generator, *, whole: bool) -> Tensor:
        recipe, vision = self.recipe, self.model.vision_model
        size: Any = vision.config.image_size
        layers = recipe.frozen_layers
        if whole:
            pixels = random_views(self._material.pictures[index], size, rng, whole=False)
            rows = lower_rows(vision, pixels, layers)
        else:
            view = rng.integers(0, recipe.views, len(index))
            rows = keep_patches(picked(self._rows, view, index), recipe.kept_patches, rng)
        return upper_readout(vision, rows, layers)

    def _make_optimizer(self) -> torch.optim.AdamW:
        """Return AdamW in four groups: image side or not, with weight decay or not."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            place = (name.startswith("vision_model."), parameter.ndim > 1 and "embedding" not in name)
            groups.setdefault(place, []).append(parameter)
        return torch.optim.AdamW(
            [
                {"params": of_group, "weight_decay": self.recipe.weight_decay * decayed, "image": image}
                for (image, decayed), of_group in groups.items()
            ],
            betas=(0.9, 0.98),
        )

    def _set_rates(self) -> None:
        share = self.recipe.rate_share(self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = share * (self.recipe.image_rate if group["image"] else self.recipe.text_rate)


def _chances(material: Material, first_share: float) -> NDArray[np.float64] | None:
    """Return the chance of each pair: a share for those of the first source, the rest for all others."""
    sources: Any = np.array([pair.source for pair in material.pairs])
    first = sources == sources[0]
    if first.all():
        return None
    chances: NDArray[np.float64] = np.where(first, first_share / first.sum(), (1 - first_share) / (~first).sum())
    return chances
