"""Measure what linear classifiers on the frozen encoders reach on the tasks of the suite.

For each task that `make` has built into DIR, and each image encoder, logistic regressions read the CLS token or the
mean of all tokens (texts: without padding; pictures: without CLS), of the picture, of the text, and of both one after
the other. `bilinear` reads the outer product of the first principal components of both CLS tokens: what only fusion
finds. `constant` is the best constant answer. The penalty is chosen on a quarter of the training pictures, held out
with all their samples. Every probe is scored by the task's metric, on validation only; the test split is not read.

Features are kept in DIR/features and computed once.

Run: python -m benchmarks.suite.probe --data DIR [--task NAME ...] [--json FILE]
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.multiclass import OneVsRestClassifier
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from benchmarks.suite.data_set import IMAGES, MANIFEST, DataSet, Sample
from benchmarks.suite.tasks import DEMO_IMAGE_ENCODER, DINOV2, TASKS, Task
from demo.text_encoder import text_encoder_directory
from nas.common.files import replace_atomically
from nas.models.encoders.pretrained import silence_transformers
from nas.run.tables import text_table

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse strengths of the penalty, as scikit-learn's C."""
COMPONENTS = 40
"""The number of principal components of each modality in the outer product."""
_HELD_OUT = 0.25
_BATCH = 64

Features = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the --output of benchmarks.suite.make")
    parser.add_argument("--task", nargs="+", choices=sorted(TASKS), default=list(TASKS), help="default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures; other tasks in it are kept")
    options = parser.parse_args()
    silence_transformers()
    figures: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    for name in options.task:
        if not (options.data / name / MANIFEST).exists():
            print(f"{name}: skipped, because {options.data} does not have it; build it with benchmarks.suite.make")
            continue
        figures[name] = probe_task(TASKS[name], options.data)
        show(name, figures[name])
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def probe_task(task: Task, data: Path) -> dict[str, Any]:
    """Return the scores of all probes of a task.

    Args:
        task: The task.
        data: The folder of all tasks, and of DINOv2.
    """
    directory = data / task.name
    samples = [s for s in DataSet(directory / MANIFEST, directory / IMAGES).read() if s.split != "test"]
    problem = Problem.of(task, samples)
    text = text_features(samples, task.max_text_tokens)
    encoders = {"vit-tiny-clipart": DEMO_IMAGE_ENCODER, DINOV2: data / DINOV2}
    if task.uses_dinov2:
        del encoders["vit-tiny-clipart"]  # made for clip art
    scores: dict[str, Any] = {"constant": problem.constant()}
    scores |= {f"text {pool}": problem.score(features) for pool, features in text.items()}
    for name, folder in encoders.items():
        if folder.exists():
            kept = data / "features" / f"{task.name}-{name}.npz"
            image = image_features(directory, samples, folder, kept)
            of_encoder = {f"image {pool}": problem.score(features) for pool, features in image.items()}
            for pool in text:
                of_encoder[f"both {pool}"] = problem.score(np.hstack([image[pool], text[pool]]))
            product = bilinear(image["CLS"], text["CLS"], problem.is_train)
            scores[name] = of_encoder | {"bilinear": problem.score(product)}
    counts = {split: sum(s.split == split for s in samples) for split in ("train", "validation")}
    return {"metric": task.objective, "split": "validation", "samples": counts, "scores": scores}


@dataclass(frozen=True)
class Problem:
    """The labels of training and validation samples, and how a probe is scored.

    Args:
        targets: The class of each sample, (N,), or 1 for each of its labels, (N, labels).
        is_train: Which samples are for training, (N,).
        is_held_out: Which of these choose the penalty, (N,).
        metric: Compares true and predicted targets.
    """

    targets: NDArray[np.int64]
    is_train: NDArray[np.bool_]
    is_held_out: NDArray[np.bool_]
    metric: Callable[[NDArray[np.int64], NDArray[np.int64]], float]

    @classmethod
    def of(cls, task: Task, samples: Sequence[Sample]) -> "Problem":
        """Return the problem of a task."""
        names = sorted({label for sample in samples for label in sample.labels})
        several = np.array([[name in sample.labels for name in names] for sample in samples], dtype=np.int64)
        is_train = np.array([sample.split == "train" for sample in samples])
        pictures = sorted({sample.image for sample in samples if sample.split == "train"})
        held_out = set(np.random.default_rng(0).permutation(pictures)[: int(_HELD_OUT * len(pictures))])
        return cls(
            targets=several if task.has_several_labels else several.argmax(axis=1),
            is_train=is_train,
            is_held_out=np.array([sample.image in held_out for sample in samples]),
            metric=_micro_f1 if task.has_several_labels else accuracy_score,
        )

    def constant(self) -> float:
        """Return the score of the best constant answer: the most frequent class, or all labels that help."""
        train, tested = self.targets[self.is_train], self.targets[~self.is_train]
        if train.ndim == 1:
            return float(self.metric(tested, np.full_like(tested, np.bincount(train).argmax())))
        order = train.sum(axis=0).argsort()[::-1]
        answers = [np.isin(np.arange(len(order)), order[:count]).astype(np.int64) for count in range(1, len(order) + 1)]
        best = max(answers, key=lambda answer: self.metric(train, np.tile(answer, (len(train), 1))))
        return float(self.metric(tested, np.tile(best, (len(tested), 1))))

    def score(self, features: Features) -> dict[str, float]:
        """Return the validation score of a logistic regression on standardised features, and its penalty."""
        fitted = self.is_train & ~self.is_held_out
        chosen = max(PENALTIES, key=lambda c: (self._scored(features, c, fitted, self.is_held_out), -c))
        return {"score": self._scored(features, chosen, self.is_train, ~self.is_train), "C": chosen}

    def _scored(self, features: Features, c: float, fitted: NDArray[Any], tested: NDArray[Any]) -> float:
        mean, deviation = features[fitted].mean(axis=0), features[fitted].std(axis=0).clip(1e-6)
        scaled = (features - mean) / deviation
        model: Any = LogisticRegression(C=c, max_iter=300, tol=1e-3)
        if self.targets.ndim == 2:
            model = OneVsRestClassifier(model)
        model.fit(scaled[fitted], self.targets[fitted])
        return float(self.metric(self.targets[tested], model.predict(scaled[tested])))


def _micro_f1(true: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    return float(f1_score(true, predicted, average="micro", zero_division=0.0))


def bilinear(image: Features, text: Features, is_train: NDArray[np.bool_]) -> Features:
    """Return the products of the first principal components of both, (N, components squared)."""
    reduced = []
    for features in (image, text):
        components = min(COMPONENTS, *features[is_train].shape)
        reduced.append(PCA(components, whiten=True, random_state=0).fit(features[is_train]).transform(features))
    product: Features = np.einsum("ni,nt->nit", *reduced).reshape(len(image), -1).astype(np.float32)
    return product


def text_features(samples: Sequence[Sample], max_tokens: int) -> dict[str, Features]:
    """Return the CLS tokens and the means of all tokens of the samples' texts, (N, width) each."""
    folder = text_encoder_directory()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def encode(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return hidden[:, 0], (hidden * mask).sum(1) / mask.sum(1)

    texts = sorted({sample.text for sample in samples}, key=lambda text: (len(text), text))
    return _spread(encode, texts, texts, [sample.text for sample in samples])


def image_features(directory: Path, samples: Sequence[Sample], encoder: Path, kept: Path) -> dict[str, Features]:
    """Return the CLS tokens and the means of the patches of the samples' pictures, (N, width) each.

    Args:
        directory: The folder of the data set.
        samples: The samples.
        encoder: The folder of the image encoder.
        kept: The file of the features, which is read if it is newer than the data set.
    """
    archive = directory / IMAGES
    if kept.exists() and kept.stat().st_mtime_ns > archive.stat().st_mtime_ns:
        with np.load(kept) as file:
            return {"CLS": file["cls"], "mean": file["mean"]}
    processor = AutoImageProcessor.from_pretrained(encoder, backend="pil")
    model = AutoModel.from_pretrained(encoder, dtype=torch.float32).eval()

    def encode(pictures: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = model(**processor(images=pictures, return_tensors="pt")).last_hidden_state
        return hidden[:, 0], hidden[:, 1:].mean(1)

    names = list(dict.fromkeys(sample.image for sample in samples))
    pictures = DataSet(directory / MANIFEST, archive).pictures(names)
    found = _spread(encode, names, pictures, [sample.image for sample in samples])
    kept.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(kept) as path, path.open("wb") as file:
        np.savez(file, cls=found["CLS"], mean=found["mean"])
    return found


def _spread(
    encode: Callable[[list[Any]], tuple[torch.Tensor, torch.Tensor]],
    keys: Sequence[str],
    inputs: Iterable[Any],
    wanted: Sequence[str],
) -> dict[str, Features]:
    """Encode different inputs in batches, and return the features of all samples.

    Args:
        encode: Returns CLS tokens and means of a batch.
        keys: The key of each input.
        inputs: The inputs.
        wanted: The key of each sample.
    """
    encoded: list[tuple[Features, Features]] = []
    batch: list[Any] = []
    with torch.inference_mode():
        for number, one in enumerate(inputs, start=1):
            batch.append(one)
            if len(batch) == _BATCH or number == len(keys):
                cls, mean = encode(batch)
                encoded.append((cls.numpy(), mean.numpy()))
                batch = []
    place = {key: index for index, key in enumerate(keys)}
    order = [place[key] for key in wanted]
    return {
        pool: np.concatenate([pair[which] for pair in encoded])[order] for which, pool in enumerate(("CLS", "mean"))
    }


def show(name: str, figures: dict[str, Any]) -> None:
    """Print the scores of a task."""
    rows = []
    for key, value in figures["scores"].items():
        if isinstance(value, float):
            rows.append((key, f"{value:.3f}"))
        elif "score" in value:
            rows.append((key, f"{value['score']:.3f}"))
        else:
            rows += [(f"{key}: {probe}", f"{entry['score']:.3f}") for probe, entry in value.items()]
    print(text_table((name, figures["metric"]), rows))


if __name__ == "__main__":
    main()
