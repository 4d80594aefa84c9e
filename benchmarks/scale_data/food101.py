"""A folder like that of UPMC Food-101: 65,101 and 21,695 pictures with a title in train and test, of 101 dishes.

These are the pairs of MMBT (Kiela et al., 2019), 5,000 of whose training pairs are its validation split. As in the
original, some pictures have no title, and titles have commas and quotes without being quoted.
"""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.scale_data.samples import picture, scaled, text

SAMPLES: Mapping[str, int] = {"train": 65_101, "test": 21_695}
CLASSES = 101
_WITHOUT_TITLE = 25
"""Every 25th picture."""


def write_food101(root: Path, share: float = 1.0) -> None:
    """Write the folder.

    Args:
        root: The folder, which does not exist.
        share: The share of the samples to write.
    """
    names = [f"dish_{number:03}" for number in range(CLASSES)]
    (root / "texts").mkdir(parents=True)
    number = 0
    for split, count in SAMPLES.items():
        folders = [root / "images" / split / name for name in names]
        for folder in folders:
            folder.mkdir(parents=True)
        with (root / "texts" / f"{split}_titles.csv").open("w", encoding="utf-8") as titles:
            for index in range(scaled(count, share, at_least=5 * CLASSES)):
                label = index % CLASSES
                name = f"{names[label]}_{index // CLASSES}.jpg"
                (folders[label] / name).write_bytes(picture(number, label, CLASSES))
                titles.write(f'{name},{text(number, label)}, "the best" recipe,{names[label]}\n')
                number += 1
                if index % _WITHOUT_TITLE == 0:
                    (folders[label] / f"{names[label]}_{index // CLASSES}_x.jpg").write_bytes(
                        picture(number, label, CLASSES)
                    )
                    number += 1
