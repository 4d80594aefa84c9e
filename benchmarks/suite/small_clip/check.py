"""Zero-shot classification of the demo's validation split: does the checkpoint know more than chance?

A picture gets the class whose texts, averaged over the templates, are closest. Chance is 1/15, the accuracy of random
answers. As the classes are of different sizes, the constant answer of the largest class is right more often, so the
mean accuracy of the classes (balanced accuracy) must pass as well: for any constant answer it is exactly 1/15.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from benchmarks.suite.small_clip.pairs import TEMPLATES
from demo.build_data import HERE
from demo.probe import read_pictures, read_rows
from nas.common.errors import DataError

_BATCH = 64
_CONFIDENCE = 0.95
_FACTOR = 2.0
"""The least accuracy, as a multiple of chance."""


@dataclass(frozen=True)
class ZeroShot:
    """The accuracy of zero-shot answers.

    Args:
        right: Whether each answer is right, (N,) bool.
        labels: The true class of each, (N,).
        classes: The number of classes.
    """

    right: NDArray[np.bool_]
    labels: NDArray[np.int64]
    classes: int

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return float(self.right.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy (Wilson)."""
        found = binomtest(int(self.right.sum()), len(self.right)).proportion_ci(_CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)

    @property
    def balanced(self) -> float:
        """The mean of the classes' accuracies."""
        return float(np.mean(self._of_classes()[0]))

    @property
    def balanced_interval(self) -> tuple[float, float]:
        """The 95 % interval of the balanced accuracy, from the binomial variances of the classes."""
        accuracies, counts = self._of_classes()
        deviation = np.sqrt((accuracies * (1 - accuracies) / counts).sum()) / len(counts)
        half = float(norm.ppf(0.5 + _CONFIDENCE / 2) * deviation)
        return self.balanced - half, self.balanced + half

    @property
    def chance(self) -> float:
        """The accuracy of random answers."""
        return 1 / self.classes

    @property
    def majority(self) -> float:
        """The accuracy of the constant answer that is right most often."""
        return float(np.bincount(self.labels).max() / len(self.labels))

    @property
    def passes(self) -> bool:
        """Whether both accuracies are at least twice chance, with their intervals above it."""
        return all(
            value >= _FACTOR * self.chance and low > self.chance
            for value, (low, _) in ((self.accuracy, self.interval), (self.balanced, self.balanced_interval))
        )

    @property
    def lines(self) -> list[str]:
        """The figures, for people."""
        return [
            f"accuracy {_with_interval(self.accuracy, self.interval)} on {len(self.right)} drawings",
            f"balanced accuracy {_with_interval(self.balanced, self.balanced_interval)}",
            f"random answers: {self.chance:.3f} in both; the largest class always: {self.majority:.3f}, balanced "
            f"{self.chance:.3f}",
        ]

    def _of_classes(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return accuracy and size of every class that occurs."""
        counts = np.bincount(self.labels, minlength=self.classes)
        hits = np.bincount(self.labels, weights=self.right, minlength=self.classes)
        return hits[counts > 0] / counts[counts > 0], counts[counts > 0]


@torch.inference_mode()
def zero_shot(folder: Path, split: str = "validation") -> ZeroShot:
    """Classify the drawings of a split of the demo by the names of the classes.

    Args:
        folder: The folder of a `CLIPModel` with its tokenizer and image processor.
        split: The split.

    Raises:
        DataError: If there is no model.
    """
    if not (folder / "config.json").exists():
        raise DataError(f"{folder}: no checkpoint; expected config.json; train it first")
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    rows = [row for row in read_rows(HERE / "data") if row["split"] == split]
    names = sorted({row["label"] for row in rows})
    texts = []
    for template in ("{}", *TEMPLATES):
        batch = tokenizer(
            [template.format(name.replace("_", " ")) for name in names], padding=True, return_tensors="pt"
        )
        texts.append(F.normalize(model.get_text_features(**batch).pooler_output, dim=1))
    classes = torch.stack(texts).mean(dim=0)  # (classes, E); its length is part of the averaged score
    pictures, answers = read_pictures(HERE / "data", rows), []
    for start in range(0, len(pictures), _BATCH):
        pixels = processor(images=pictures[start : start + _BATCH], return_tensors="pt")
        image = model.get_image_features(**pixels).pooler_output
        answers.append((image @ F.normalize(classes, dim=1).T).argmax(dim=1))
    labels = np.array([names.index(row["label"]) for row in rows])
    return ZeroShot(torch.cat(answers).numpy() == labels, labels, len(names))


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
