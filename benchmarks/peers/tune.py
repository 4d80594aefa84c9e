"""Tune PMF with Ray Tune as a user would: OptunaSearch proposes, ASHA stops trials early, two trials run at once.

The search is over the architecture genes and the learning rates of a search of this project, with its number of epochs
and the rest of its recipe. PMF is the straightforward one, whole layers of the transformers library. Images and texts
are preprocessed once; with `is_cached`, the base features of every fusion layer are computed once as well. Otherwise
every step runs the whole frozen encoders.
"""

import json
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.models import build_pmf, demo_encoders
from benchmarks.straightforward import StraightforwardPMF, base_features
from nas.config.schema import Config
from nas.data.dataset import open_dataset_images, read_dataset
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import load_encoder, resolve_checkpoint
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.recipe_tuning import SETTINGS
from nas.training.trainer import learning_rate_factor

REPORTS, ARRAYS = "reports.jsonl", "arrays"
_SPLITS = ("train", "validation")
_METRIC = "accuracy"
_RATE, _CLASSIFIER_RATE = "rate", "classifier_rate"
_BATCH = 32
"""The number of samples that are preprocessed or evaluated at once."""

Array = NDArray[Any]


@dataclass(frozen=True)
class TuneTask:
    """What all trials share.

    Args:
        folder: The folder of the arrays that `prepare` writes.
        config: The completed configuration of the task, with classifiers that start at random.
        is_cached: Whether trials read base features.
    """

    folder: Path
    config: Config
    is_cached: bool

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.load("classes"))

    def load(self, name: str) -> Array:
        """Return an array, mapped from its file."""
        values: Array = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return values

    def save(self, name: str, values: Array) -> None:
        """Write an array."""
        np.save(self.folder / f"{name}.npy", values)


def prepare(folder: Path, config: Config, *, is_cached: bool) -> TuneTask:
    """Read and preprocess train and validation, and run the base layers of the encoders once if that is wanted.

    Args:
        folder: The folder for the arrays.
        config: The completed configuration of the task.
        is_cached: Whether to compute base features, in place of pixel values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image_encoder, text_encoder, preprocessor = demo_encoders(config)
    dataset, source = read_dataset(config.data, _SPLITS, compares_images=False), open_dataset_images(config.data)
    task = TuneTask(folder.resolve(), config, is_cached)
    splits = [dataset.splits[name] for name in _SPLITS]
    names = sorted({name for split in splits for name in split.images})
    places = {name: place for place, name in enumerate(names)}
    pixels = [preprocessor.pixel_values([source.open(name) for name in part]) for part in _parts(names)]
    ids, mask = preprocessor.tokenize([text for split in splits for text in split.texts])
    task.save("classes", np.array(dataset.class_names))
    task.save("image", np.array([places[name] for split in splits for name in split.images]))
    task.save("ids", ids.numpy())
    task.save("mask", mask.numpy())
    task.save("label", np.concatenate([split.labels for split in splits]))
    task.save("split", np.repeat(np.arange(len(splits)), [len(split) for split in splits]))
    if is_cached:
        starts = [first_layers((image_encoder, text_encoder), layer) for layer in config.space.choices["fusion_layer"]]
        texts = list(zip(ids.split(_BATCH), mask.split(_BATCH), strict=True))
        _save_features(task, image_encoder, [(part, None) for part in pixels], "image", {first for first, _ in starts})
        _save_features(task, text_encoder, texts, "text", {first for _, first in starts})
    else:
        task.save("pixels", torch.cat(pixels).numpy())
    return task


def first_layers(encoders: tuple[Encoder, Encoder], fusion_layer: int) -> tuple[int, int]:
    """Return the index of the first fusing layer of each encoder."""
    image, text = (encoder.num_layers for encoder in encoders)
    fusing = min(image, text) - fusion_layer
    return image - fusing, text - fusing


def _parts(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)]


def _save_features(
    task: TuneTask,
    encoder: Encoder,
    batches: Sequence[tuple[Tensor, Tensor | None]],
    modality: str,
    layers: Collection[int],
) -> None:
    parts = [base_features(encoder, inputs, mask, layers) for inputs, mask in batches]
    for layer in layers:
        task.save(f"{modality}-{layer}", torch.cat([part[layer] for part in parts]).numpy())


class _Trial:
    """One training: the model, its data and its optimizer.

    Args:
        task: The task.
        settings: The genes and the two learning rates.
        seed: The seed of initial weights and batches.
    """

    def __init__(self, task: TuneTask, settings: Mapping[str, Any], seed: int) -> None:
        torch.set_num_threads(1)
        config, encoders = task.config, load_encoders(task.config)
        genes = {name: value for name, value in settings.items() if name not in (_RATE, _CLASSIFIER_RATE)}
        architecture = PMFArchitecture(**genes)
        pmf = build_pmf(encoders, architecture, num_classes=task.num_classes, seed=seed)
        self.model = StraightforwardPMF(pmf)
        self.task, self._recipe = task, config.recipe
        self._image, self._mask, self._label = (task.load(name) for name in ("image", "mask", "label"))
        starts = first_layers(encoders, architecture.fusion_layer)
        names = (f"image-{starts[0]}", f"text-{starts[1]}") if task.is_cached else ("pixels", "ids")
        self._image_inputs, self._text_inputs = (task.load(name) for name in names)
        split = task.load("split")
        self._train, self._validation = (np.flatnonzero(split == number) for number in range(len(_SPLITS)))
        self._order = np.random.default_rng(seed)
        fusing = encoders[0].num_layers - starts[0]
        self.optimizer = torch.optim.AdamW(
            self._groups(pmf, settings, fusing**self._recipe.depth_scaling),
            betas=(self._recipe.momentum, 0.999),
            weight_decay=self._recipe.weight_decay,
        )

    @staticmethod
    def _groups(pmf: nn.Module, settings: Mapping[str, Any], divisor: float) -> list[dict[str, Any]]:
        classifiers, others = list[nn.Parameter](), list[nn.Parameter]()
        for name, parameter in pmf.named_parameters():
            (classifiers if "classifier" in name else others).append(parameter)
        return [
            {"params": classifiers, "lr": settings[_CLASSIFIER_RATE]},
            {"params": others, "lr": settings[_RATE] / divisor},
        ]

    def epochs(self) -> Iterator[float]:
        """Train one epoch after another, and yield the validation accuracy after each."""
        size, count = self._recipe.batch_size, self.task.config.recipe.epochs or 1
        steps = count * math.ceil(len(self._train) / size)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, steps, self._recipe)
        )
        for _ in range(count):
            order = self._order.permutation(self._train)
            for start in range(0, len(order), size):
                rows = np.sort(order[start : start + size])
                labels = torch.from_numpy(self._label[rows])
                loss = cross_entropy(self.logits(rows), labels, label_smoothing=self._recipe.label_smoothing)
                self.optimizer.zero_grad()
                loss.backward()
                if self._recipe.clip_norm is not None:
                    nn.utils.clip_grad_norm_(self.model.pmf.parameters(), self._recipe.clip_norm)
                self.optimizer.step()
                schedule.step()
            yield self._accuracy()

    def logits(self, rows: Array) -> Tensor:
        """Return the logits of samples, (B, C).

        Args:
            rows: Their places among the samples of train and validation.
        """
        mask = torch.from_numpy(self._mask[rows])
        longest = int(mask.sum(dim=1).max())
        image = torch.from_numpy(self._image_inputs[self._image[rows]])
        text = torch.from_numpy(self._text_inputs[rows][:, :longest])
        forward = self.model.from_features if self.task.is_cached else self.model.forward
        return forward(image, text, mask[:, :longest])

    @torch.no_grad()
    def _accuracy(self) -> float:
        rows = self._validation
        parts = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
        predicted = np.concatenate([self.logits(part).argmax(dim=1).numpy() for part in parts])
        return float((predicted == self._label[rows]).mean())


def load_encoders(config: Config) -> tuple[Encoder, Encoder]:
    """Load the frozen encoders."""
    image, text = (resolve_checkpoint(name, Path.cwd()) for name in (config.encoders.image, config.encoders.text))
    return load_encoder(image, "image"), load_encoder(text, "text")


def initial_logits(task: TuneTask, settings: Mapping[str, Any], seed: int) -> Tensor:
    """Return the logits of all samples before training, (N, C)."""
    with torch.no_grad():
        return _Trial(task, settings, seed).logits(np.arange(len(task.load("label"))))


def train_alone(work: tuple[TuneTask, Mapping[str, Any], int]) -> float:
    """Train all epochs outside of Ray Tune, and return the validation accuracy after the last.

    Args:
        work: The task, the genes and the two learning rates, and the seed.
    """
    return list(_Trial(*work).epochs())[-1]


def tune_space(config: Config) -> dict[str, Any]:
    """Return the space of Ray Tune: the genes, and the range of rates that a search of this project tries.

    Args:
        config: The completed configuration of the task.
    """
    rates = config.recipe.learning_rates
    factors = [setting.rate for setting in SETTINGS], [setting.classifier_rate for setting in SETTINGS]
    return {
        **{variable.name: tune.choice(list(variable.choices)) for variable in config.space.variables},
        _RATE: tune.loguniform(rates.prompts * min(factors[0]), rates.prompts * max(factors[0])),
        _CLASSIFIER_RATE: tune.loguniform(rates.classifiers * min(factors[1]), rates.classifiers * max(factors[1])),
    }


class _Recorder(tune.Callback):
    """Writes every report of a trial to a file, with the time since the start.

    Args:
        path: The file.
        began: The start on the monotonic clock.
    """

    def __init__(self, path: Path, began: float) -> None:
        self._path, self._began = path, began

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        del iteration, trials, info
        line = {
            "seconds": round(time.monotonic() - self._began, 3),
            "trial": trial.trial_id,
            "epoch": result["training_iteration"],
            "score": result[_METRIC],
            "settings": trial.config,
        }
        with self._path.open("a", encoding="utf-8") as file:
            print(json.dumps(line), file=file)


def _train(settings: dict[str, Any], *, task: TuneTask, seed: int) -> None:
    for accuracy in _Trial(task, settings, seed).epochs():
        tune.report({_METRIC: accuracy})


def run_tune(directory: Path, config: Config, *, is_cached: bool, seed: int, seconds: float, trials: int = -1) -> None:
    """Tune until the time is over; what is known when is in the file `REPORTS` of the directory.

    The time starts with the preprocessing of the data, and includes it and the start of Ray.

    Args:
        directory: An empty folder.
        config: The completed configuration of the task.
        is_cached: Whether trials read base features that are computed once.
        seed: The seed of Optuna, and of all trainings.
        seconds: The time.
        trials: The number of trials; -1 for as many as there is time for.
    """
    began = time.monotonic()
    task = prepare(directory / ARRAYS, config, is_cached=is_cached)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(_train, task=task, seed=seed), {"cpu": 1}),
            param_space=tune_space(config),
            tune_config=tune.TuneConfig(
                metric=_METRIC,
                mode="max",
                search_alg=OptunaSearch(seed=seed),
                scheduler=ASHAScheduler(max_t=config.recipe.epochs or 1),
                num_samples=trials,
                max_concurrent_trials=2,
                time_budget_s=max(1.0, seconds - (time.monotonic() - began)),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(directory.resolve()),
                verbose=0,
                callbacks=[_Recorder(directory / REPORTS, began)],
            ),
        ).fit()
    finally:
        ray.shutdown()
