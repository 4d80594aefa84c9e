"""Measure with linear probes how much the CLS tokens of the two encoders reveal about the classes.

The demo makes sense only if image and title are each informative, and more so together. The probe is a multinomial
logistic regression on standardised CLS tokens of the frozen encoders, fitted on the training split. Its L2 penalty is
chosen by cross-validation within the training split, with whole families in one fold, so that the reported split
influences no choice.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoImageProcessor, ViTConfig, ViTModel

from demo.text_encoder import encode_texts

HERE = Path(__file__).resolve().parent
IMAGE_ENCODER = HERE / "encoders" / "vit-tiny-clipart"
PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)  # from strong to weak; each fit starts at the previous one
FOLDS = 4
SEED = 20


def read_rows(data: Path) -> list[dict[str, str]]:
    """Return the rows of the manifest.

    Args:
        data: The folder of the data set.
    """
    with (data / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_pictures(data: Path, rows: Sequence[dict[str, str]]) -> list[Image.Image]:
    """Return the images of some rows.

    Args:
        data: The folder of the data set.
        rows: The rows of the manifest.
    """
    with zipfile.ZipFile(data / "images.zip") as archive:
        return [Image.open(io.BytesIO(archive.read(row["image"]))).convert("RGB") for row in rows]


@torch.inference_mode()
def image_features(pictures: Sequence[Image.Image], encoder: Path, untrained: bool = False) -> torch.Tensor:
    """Return the CLS tokens after the final LayerNorm, (N, D).

    Args:
        pictures: The images.
        encoder: The folder of the image encoder.
        untrained: Whether to use the architecture with random weights instead.
    """
    processor = AutoImageProcessor.from_pretrained(encoder, backend="pil")
    if untrained:
        torch.manual_seed(SEED)
        model = ViTModel(ViTConfig.from_pretrained(encoder), add_pooling_layer=False)
    else:
        model = ViTModel.from_pretrained(encoder, add_pooling_layer=False, dtype=torch.float32)
    model.eval()
    features = []
    for start in range(0, len(pictures), 64):
        batch = processor(images=list(pictures[start : start + 64]), return_tensors="pt")
        features.append(model(batch["pixel_values"]).last_hidden_state[:, 0])
    return torch.cat(features).float()


def fit(
    features: torch.Tensor, labels: torch.Tensor, classes: int, penalty: float, start: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the weights of the penalised logistic regression, with the biases in the last row, (D + 1, C).

    The problem is convex: `start`, the weights for another penalty, only saves time.
    """
    rows = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    weights = torch.zeros(rows.shape[1], classes) if start is None else start.clone()
    weights.requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        size = weights[:-1].pow(2).sum()
        loss = F.cross_entropy(rows @ weights, labels) + penalty * size / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def predict(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the class with the highest score for each row, (N,)."""
    return (features @ weights[:-1] + weights[-1]).argmax(1)


def choose_penalty(features: torch.Tensor, labels: torch.Tensor, families: Sequence[str], classes: int) -> float:
    """Return the penalty with the best cross-validated accuracy; the stronger one of equals."""
    names = sorted(set(families))
    order = np.random.default_rng(SEED).permutation(len(names))
    fold_of = {names[position]: int(rank) % FOLDS for rank, position in enumerate(order)}
    folds = torch.tensor([fold_of[family] for family in families])
    right = dict.fromkeys(PENALTIES, 0)
    for fold in range(FOLDS):
        inside = folds != fold
        weights = None
        for penalty in PENALTIES:
            weights = fit(features[inside], labels[inside], classes, penalty, weights)
            right[penalty] += int((predict(features[~inside], weights) == labels[~inside]).sum())
    return max(PENALTIES, key=lambda penalty: (right[penalty], penalty))


def probe(features: torch.Tensor, rows: Sequence[dict[str, str]], split: str) -> dict[str, float]:
    """Return the accuracy on a split of a probe fitted on the training rows, and its penalty."""
    names = sorted({row["label"] for row in rows})
    labels = torch.tensor([names.index(row["label"]) for row in rows])
    fitted = torch.tensor([row["split"] == "train" for row in rows])
    tested = torch.tensor([row["split"] == split for row in rows])
    mean, deviation = features[fitted].mean(0), features[fitted].std(0).clamp_min(1e-6)
    scaled = (features - mean) / deviation
    families = [row["family"] for row in rows if row["split"] == "train"]
    penalty = choose_penalty(scaled[fitted], labels[fitted], families, len(names))
    weights = fit(scaled[fitted], labels[fitted], len(names), penalty)
    right = predict(scaled[tested], weights) == labels[tested]
    return {"accuracy": right.float().mean().item(), "penalty": penalty}


def main() -> None:
    """Print a table of all probes and, on request, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--image-encoder", type=Path, default=IMAGE_ENCODER)
    parser.add_argument("--image-only", action="store_true", help="only the trained image encoder")
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    options = parser.parse_args()
    rows = [row for row in read_rows(options.data) if row["split"] in ("train", options.split)]
    pictures = read_pictures(options.data, rows)

    image = image_features(pictures, options.image_encoder)
    inputs = {"image": image}
    if not options.image_only:
        text = encode_texts([row["text"] for row in rows])
        untrained = image_features(pictures, options.image_encoder, untrained=True)
        inputs |= {"untrained image": untrained, "text": text}
        inputs["image and text"] = torch.cat([image, text], dim=1)
    measured = {name: probe(features, rows, options.split) for name, features in inputs.items()}

    count = sum(row["split"] == options.split for row in rows)
    print(f"{'input':18}{'accuracy':>10}{'penalty':>10}   ({options.split}, {count} drawings)")
    for name, figures in measured.items():
        print(f"{name:18}{figures['accuracy']:10.3f}{figures['penalty']:10g}")
    if options.json:
        report = {"split": options.split, "count": count, "probes": measured}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
