"""A folder like that of SNLI-VE: 529,527, 17,858 and 17,901 sentences about 29,783, 1,000 and 1,000 pictures."""

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.scale_data.samples import picture, scaled, text
from nas.data.readers.snli_ve import LABELS

SAMPLES: Mapping[str, tuple[int, int]] = {"train": (529_527, 29_783), "dev": (17_858, 1_000), "test": (17_901, 1_000)}
"""Sentences and pictures of every split."""


def write_snli_ve(root: Path, share: float = 1.0) -> None:
    """Write the folder.

    Args:
        root: The folder, which does not exist.
        share: The share of the samples to write.
    """
    images = root / "flickr30k_images"
    images.mkdir(parents=True)
    first = 0
    for split, (sentences, pictures) in SAMPLES.items():
        picture_count = scaled(pictures, share, at_least=10)
        for number in range(first, first + picture_count):
            (images / f"{number:010}.jpg").write_bytes(picture(number, number % len(LABELS), len(LABELS)))
        with (root / f"snli_ve_{split}.jsonl").open("w", encoding="utf-8") as file:
            for index in range(scaled(sentences, share, at_least=30)):
                image, label = first + index % picture_count, index % len(LABELS)
                row = {
                    "annotator_labels": [LABELS[label]],
                    "captionID": f"{image:010}.jpg#0",
                    "gold_label": LABELS[label],
                    "pairID": f"{image:010}.jpg#0r{index}",
                    "sentence1": "a picture",
                    "sentence2": text(index + (len(split) << 32), label),
                    "Flickr30K_ID": f"{image:010}",
                }
                file.write(json.dumps(row) + "\n")
        first += picture_count
