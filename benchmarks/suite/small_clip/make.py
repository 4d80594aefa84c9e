"""Train a small CLIP from packages, or measure one: see the docstrings of the package and of `training`.

DIR gets the checkpoint. The work folder holds the downloads, the rendered pictures and the state of the training; a
second call with the same folders resumes. When the time is over before the steps are, the model as it is then is
written, and the next call resumes.

Run: python -m benchmarks.suite.small_clip.make --output DIR [--work DIR] [--minutes M] [--steps N]
     [--grocery DIR] [--check]
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, ViTModel

from benchmarks.suite.small_clip.check import zero_shot
from benchmarks.suite.small_clip.export import add_figures, export, model_card
from benchmarks.suite.small_clip.model import build, copy_processor
from benchmarks.suite.small_clip.pairs import Material, prepare, without_copies
from benchmarks.suite.small_clip.quick import shapes
from benchmarks.suite.small_clip.training import QUICK, Recipe, Training
from benchmarks.suite.small_clip.views import random_views
from benchmarks.suite.tasks import DEMO_IMAGE_ENCODER
from demo.text_encoder import text_encoder_directory
from nas.common.errors import NasError
from nas.models.encoders.pretrained import silence_transformers

_MAX_TEXT = 24
"""Tokens to which the texts of the training are cut."""
_FITTED_ON = 64
"""Pictures on which the extra LayerNorm is fitted."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the checkpoint")
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder of work files (default: DIR.work)")
    parser.add_argument(
        "--packages", type=Path, metavar="DIR", help="folder of downloads (default: in the work folder)"
    )
    parser.add_argument("--grocery", type=Path, metavar="DIR", help="source of the grocery task, for comparison")
    parser.add_argument("--minutes", type=float, default=120.0, help="time of this call (default: 120)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help=f"steps in all (default: {Recipe.steps})")
    parser.add_argument("--quick", action="store_true", help="a few steps on synthetic shapes, without a download")
    parser.add_argument(
        "--check", action="store_true", help="train nothing; measure the checkpoint's zero-shot accuracy"
    )
    options = parser.parse_args(arguments)
    silence_transformers()
    try:
        if options.check:
            check(options.output)
        else:
            train(options)
    except NasError as error:
        raise SystemExit(f"error: {error}") from error


def train(options: argparse.Namespace) -> None:
    """Prepare the pairs, train or resume, and write the checkpoint."""
    work = options.work or options.output.with_name(options.output.name + ".work")
    recipe = QUICK if options.quick else replace(Recipe(), steps=options.steps)
    material = read_material(options, work)
    note(f"{len(material.pairs):,} pairs")
    torch.manual_seed(recipe.seed)
    vit = ViTModel.from_pretrained(DEMO_IMAGE_ENCODER, add_pooling_layer=False, dtype=torch.float32).eval()
    parts = work / "parts"
    pictures = material.pictures[:: max(1, len(material.pairs) // _FITTED_ON)][:_FITTED_ON]
    pixels = random_views(pictures, vit.config.image_size, np.random.default_rng(recipe.seed), whole=True)
    model = build(vit, text_encoder_directory(), parts, pixels)
    copy_processor(DEMO_IMAGE_ENCODER, parts)
    tokenizer = AutoTokenizer.from_pretrained(parts)

    def tokenize(texts: list[str]) -> torch.Tensor:
        batch = tokenizer(texts, padding=True, truncation=True, max_length=_MAX_TEXT, return_tensors="pt")
        ids: torch.Tensor = batch["input_ids"]
        return ids

    training = Training(model, material, tokenize, recipe, work, note)
    training.run(options.minutes)
    card = model_card(material.counts, asdict(recipe), training.step, training.seconds)
    digest = export(model, parts, options.output, card)
    state = "done" if training.is_done else "time is over; the same command resumes"
    note(f"{state}: step {training.step} of {recipe.steps}; {options.output}: SHA-256 of the weights {digest}")


def read_material(options: argparse.Namespace, work: Path) -> Material:
    """Return the pairs: synthetic ones if the program is only tried."""
    if options.quick:
        return without_copies(shapes(), [], {})
    return prepare(work / "pairs", options.packages or work / "packages", work, options.grocery, note)


def check(output: Path) -> None:
    """Print the zero-shot figures, add them to the model card, and exit with status 1 if they do not pass."""
    found = zero_shot(output)
    verdict = "passes" if found.passes else "does not pass"
    lines = [
        *found.lines,
        f"the check ({verdict}): both at least twice 1/{found.classes}, with their intervals above it",
    ]
    add_figures(output, lines)
    for line in lines:
        print(line)
    if not found.passes:
        sys.exit(1)


def note(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
