"""Estimate what data sets of the published sizes, and ten million samples, need in disk space, hours and money.

Nothing is measured here, and no figure comes from a GPU: all follows from the assumptions below, and from the growth
that `benchmarks.scale` measured on a CPU.

- Encoders: ViT-B/16 (197 tokens) and BERT-B in bfloat16; a layer needs 24 · D² + 4 · T · D operations for each token.
- A training step of PMF passes the fusing layers forward, and backward to their inputs: three times the forward pass.
  It takes the longer of this work at the stated utilisation and the launches of its kernels: 420, and 730 for each
  fusing layer, as counted without a GPU. Scoring is a third of it.
- A search has a supernet and candidates that fuse 3.5 layers on average, 200 candidates of which a quarter are trained
  briefly, and 11 full trainings with 6 fusing layers: 4 finalists, the default and 6 reruns, as in `pmf_base.yaml`.
- A worker computes one candidate. A step of the supernet has 4 architectures, so that it uses 4 GPUs at most; the full
  trainings use 11.
- All GPUs build features together. The driver reads, compares and hashes all samples on one core, and decodes every
  picture once on the cores of its node, to check it.
- Features that exceed half the memory of a node are read from its disk in every epoch.

Run: python -m benchmarks.scale_estimate [--price 3] [--utilisation 0.35] [--cores 16] [--decode-ms 8] [--json FILE]
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.models import write_figures
from nas.run.tables import markdown_table

_MEASURED = Path(__file__).resolve().parent / "results" / "scale.json"
_WIDTH, _LAYERS, _IMAGE_TOKENS = 768, 12, 197
_PEAK = 989e12
"""Operations a second of an H100 (SXM) in bfloat16, dense: NVIDIA's data sheet."""
_KERNELS, _KERNELS_PER_LAYER = 420, 730
_FORWARD_SHARE = 1 / 3
_CANDIDATES, _PROMOTED, _SHORT_STEPS = 200, 0.25, 500
_SUPERNET_STEPS, _PER_STEP = 5_000, 4
_FULL_TRAININGS = 11
_MEAN_LAYERS, _MOST_LAYERS = 3.5, 6.0
_GPUS_PER_NODE = 8
_EVALUATION_BATCH = 64
_GPUS = (1, 8, 64)
_HOST_PHASES = (
    "read and check the data set",
    "check and count texts",
    "hash the images",
    "describe the contents",
    "plan the features",
)


@dataclass(frozen=True)
class Task:
    """A data set and its training.

    Args:
        name: Its name.
        train: The number of training samples.
        validation: The number of validation samples.
        images: The number of different pictures of both.
        text_tokens: The mean number of tokens of a text.
        batch: The number of samples of a batch.
        epochs: The number of epochs.
    """

    name: str
    train: int
    validation: int
    images: int
    text_tokens: int
    batch: int
    epochs: int


TASKS = (
    Task("Food-101", 60_101, 5_000, 65_101, 20, 32, 10),
    Task("MM-IMDb", 15_552, 2_608, 18_160, 140, 32, 10),
    Task("SNLI-VE", 529_527, 17_858, 30_783, 18, 64, 5),
    Task("ten million", 10_000_000, 50_000, 10_050_000, 30, 64, 1),
)


@dataclass(frozen=True)
class Assumptions:
    """What the hours follow from.

    Args:
        price: The price of a GPU for an hour.
        utilisation: The share of the GPU's peak that products reach.
        launch_us: The microseconds for which a kernel keeps the host.
        cores: The number of processor cores for each GPU.
        decode_ms: The milliseconds in which a core decodes and resizes a picture.
        disk_gb: The gigabytes that a node reads from its disk in a second.
        memory_gb: The gigabytes of memory of a node, in which features stay once they were read.
    """

    price: float
    utilisation: float
    launch_us: float
    cores: int
    decode_ms: float
    disk_gb: float
    memory_gb: float


def layer_operations(tokens: int) -> float:
    """Return the operations of one encoder layer on one sample."""
    return tokens * (2 * 12 * _WIDTH**2 + 4 * tokens * _WIDTH)


def feature_bytes(task: Task) -> int:
    """Return the size of the features at one entry layer, in float16."""
    texts = task.train + task.validation
    return 2 * _WIDTH * (task.images * _IMAGE_TOKENS + texts * task.text_tokens)


def step_seconds(task: Task, layers: float, batch: int, given: Assumptions) -> float:
    """Return the time of a training step of one candidate."""
    each = layers * (layer_operations(_IMAGE_TOKENS) + layer_operations(task.text_tokens))
    work = 3 * batch * each / (_PEAK * given.utilisation)
    return max(work, (_KERNELS + _KERNELS_PER_LAYER * layers) * given.launch_us * 1e-6)


@dataclass(frozen=True)
class Host:
    """What the driver needs, as measured.

    Args:
        start_bytes: Its private memory before it reads anything.
        sample_bytes: Its memory for each sample.
        sample_seconds: The processor time for each sample until features are built, without decoding.
    """

    start_bytes: float
    sample_bytes: float
    sample_seconds: float

    @classmethod
    def measured(cls, path: Path) -> "Host":
        """Return it from the two largest numbers of samples in a file of `benchmarks.scale`."""
        before, after = json.loads(path.read_text(encoding="utf-8"))["samples"][-2:]
        grown = [max(phase["peak_bytes"] for phase in each["phases"]) - each["start_bytes"] for each in (before, after)]
        phases = {phase["name"]: phase["processor_seconds"] for phase in after["phases"]}
        seconds = sum(phases[name] for name in _HOST_PHASES)
        return cls(
            start_bytes=after["start_bytes"],
            sample_bytes=(grown[1] - grown[0]) / (after["samples"] - before["samples"]),
            sample_seconds=seconds / after["samples"],
        )


@dataclass(frozen=True)
class Estimate:
    """The hours of the parts of a search.

    Args:
        reading: Reading and checking the data.
        build: Building the features.
        training: The supernet, candidates and short trainings.
        full: Full trainings.
        most_lost: What costs the most hours compared with equal use of all GPUs, and how many.
    """

    reading: float
    build: float
    training: float
    full: float
    most_lost: tuple[str, float]

    @property
    def hours(self) -> float:
        """All hours."""
        return self.reading + self.build + self.training + self.full


def estimate(task: Task, gpus: int, given: Assumptions, host: Host) -> Estimate:
    """Return the hours of a search on a number of GPUs."""
    texts = task.train + task.validation
    operations = task.images * layer_operations(_IMAGE_TOKENS) + texts * layer_operations(task.text_tokens)
    encode = _LAYERS * operations / (_PEAK * given.utilisation * gpus)
    decode = task.images * given.decode_ms * 1e-3 / given.cores
    own_reading = texts * host.sample_seconds
    reading = own_reading + decode / min(gpus, _GPUS_PER_NODE)
    slowness = _slowness(task, gpus, given)
    mean_step = step_seconds(task, _MEAN_LAYERS, task.batch, given) * slowness
    supernet = _SUPERNET_STEPS * math.ceil(_PER_STEP / gpus) * mean_step
    batches = math.ceil(task.validation / _EVALUATION_BATCH)
    score = batches * _FORWARD_SHARE * step_seconds(task, _MEAN_LAYERS, _EVALUATION_BATCH, given) * slowness
    candidates = _CANDIDATES * (score + _PROMOTED * (_SHORT_STEPS * mean_step + score)) / gpus
    one = task.epochs * (task.train // task.batch) * step_seconds(task, _MOST_LAYERS, task.batch, given) * slowness
    full = math.ceil(_FULL_TRAININGS / gpus) * one
    lost = {
        "the driver reads alone": own_reading * (1 - 1 / gpus),
        "decoding of pictures": max(decode / gpus - encode, 0.0),
        "4 architectures in a step of the supernet": supernet - _SUPERNET_STEPS * _PER_STEP * mean_step / gpus,
        "11 full trainings": full - _FULL_TRAININGS * one / gpus,
        "features from a disk": (supernet + candidates + full) * (1 - 1 / slowness),
    }
    worst = max(lost, key=lambda name: lost[name])
    return Estimate(
        reading=reading / 3600,
        build=max(encode, decode / gpus) / 3600,
        training=(supernet + candidates) / 3600,
        full=full / 3600,
        most_lost=(worst, lost[worst] / 3600),
    )


def _slowness(task: Task, gpus: int, given: Assumptions) -> float:
    """Return how much longer steps take because features come from the disk of each node."""
    if feature_bytes(task) / 1e9 < given.memory_gb / 2:
        return 1.0
    batch_bytes = task.batch * 2 * _WIDTH * (_IMAGE_TOKENS + task.text_tokens)
    needed = min(gpus, _GPUS_PER_NODE) * batch_bytes / step_seconds(task, _MEAN_LAYERS, task.batch, given)
    return max(needed / 1e9 / given.disk_gb, 1.0)


def estimate_table(given: Assumptions, host: Host) -> str:
    """Return disk space, memory of the driver, hours and money."""
    rows = []
    for task in TASKS:
        memory = host.start_bytes + host.sample_bytes * (task.train + task.validation)
        for gpus in _GPUS:
            found = estimate(task, gpus, given, host)
            first = gpus == _GPUS[0]
            rows.append(
                (
                    task.name if first else "",
                    f"{feature_bytes(task) / 1e9:,.0f} GB" if first else "",
                    f"{memory / 1e9:.1f} GB" if first else "",
                    str(gpus),
                    *(f"{part:.2f}" for part in (found.reading, found.build, found.training, found.full)),
                    f"{found.hours:.1f}",
                    f"{found.hours * gpus * given.price:,.0f}",
                    f"{found.most_lost[0]} ({found.most_lost[1]:.2f})",
                )
            )
    header = (
        "data set",
        "features",
        "driver",
        "GPUs",
        "read, h",
        "build, h",
        "search, h",
        "full, h",
        "all, h",
        "price",
        "most hours lost",
    )
    return markdown_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--price", type=float, default=3.0, help="price of a GPU for an hour (default: 3)")
    parser.add_argument("--utilisation", type=float, default=0.35, help="share of the peak that products reach")
    parser.add_argument("--launch-us", type=float, default=5.0, help="microseconds for each kernel")
    parser.add_argument("--cores", type=int, default=16, help="processor cores for each GPU")
    parser.add_argument("--decode-ms", type=float, default=8.0, help="milliseconds to decode and resize a picture")
    parser.add_argument("--disk-gb", type=float, default=5.0, help="gigabytes a second from the disk of a node")
    parser.add_argument("--memory-gb", type=float, default=1_000.0, help="gigabytes of memory of a node")
    parser.add_argument("--measured", type=Path, default=_MEASURED, help="figures of benchmarks.scale")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="no difference: it takes no time")
    options = parser.parse_args()
    names = ("price", "utilisation", "launch_us", "cores", "decode_ms", "disk_gb", "memory_gb")
    given = Assumptions(**{name: getattr(options, name) for name in names})
    host = Host.measured(options.measured)
    print(estimate_table(given, host))
    estimates = {f"{task.name}, {gpus}": asdict(estimate(task, gpus, given, host)) for task in TASKS for gpus in _GPUS}
    write_figures(options.json, {"assumptions": asdict(given), "hours": estimates})


if __name__ == "__main__":
    main()
