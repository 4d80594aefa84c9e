"""A manifest of any number of samples, whose pictures are in several archives."""

import csv
import zipfile
from pathlib import Path

from benchmarks.scale_data.encoders import write_encoders
from benchmarks.scale_data.samples import picture, text

ARCHIVES = 8
CLASSES = 20
_SHARED_TEXTS = 10
"""Every tenth sample has a text that some other samples have, so that their pictures are compared."""
_SEARCH = """\
name: scale
data:
  manifest: manifest.csv
  images: images
  max_text_tokens: 16
  columns: {split: null}
  held_out: {validation: 0.1, test: 0.1}
encoders: {image: ./vit, text: ./bert}
space:
  fusion_layer: [0]
  query_prompts: [1, 2]
  query_context_prompts: [0, 2]
  fusion_context_prompts: [0, 2]
  mapping_width: [4, 8]
"""


def write_data_set(root: Path, count: int) -> Path:
    """Write manifest, archives, encoders and search file; the search file is `search.yaml`.

    Args:
        root: The folder, which does not exist.
        count: The number of samples.

    Returns:
        The search file.
    """
    images = root / "images"
    images.mkdir(parents=True)
    each = -(-count // ARCHIVES)
    with (root / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "text", "label"))
        for part in range(ARCHIVES):
            name = f"part-{part}.zip"
            with zipfile.ZipFile(images / name, "w") as archive:
                for number in range(part * each, min((part + 1) * each, count)):
                    label = number % CLASSES
                    archive.writestr(f"{number:08}.jpg", picture(number, label, CLASSES))
                    # About ten samples share such a text, whatever the number of samples.
                    shown = number % (count // _SHARED_TEXTS) if number % _SHARED_TEXTS == 0 else number
                    rows.writerow((f"{name}/{number:08}.jpg", text(shown, label), f"class {label:02}"))
    write_encoders(root, layers=2)  # both fuse in the default architecture
    search_file = root / "search.yaml"
    search_file.write_text(_SEARCH, encoding="utf-8")
    return search_file
