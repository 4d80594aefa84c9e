"""Write the best architecture as a folder that loads anywhere, and use such a folder."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from nas.common.errors import ExportError
from nas.common.files import sync_directory, write_atomically
from nas.config.readers import READERS
from nas.data.images import ImageSource
from nas.data.preprocessing import Preprocessor
from nas.data.samples import Samples
from nas.models.classifier import MULTI_LABEL, FusionConfig, FusionForClassification
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import load_image_processor, load_tokenizer
from nas.models.fusion.base import FusionModel
from nas.search.space import Architecture, format_gene

DESCRIPTION = "architecture.yaml"
"""What is known of an exported model, beside it."""

_EVALUATION_BATCH = 32


@dataclass(frozen=True)
class ExportedModel:
    """An exported folder, opened.

    Args:
        model: In evaluation mode, float32.
        preprocessor: Its own image processor and tokenizer.
        class_names: In the order of the logits.
    """

    model: FusionForClassification
    preprocessor: Preprocessor
    class_names: tuple[str, ...]

    @property
    def has_several_labels(self) -> bool:
        """Whether a sample may have several labels."""
        return str(self.model.config.problem_type) == MULTI_LABEL

    @property
    def threshold(self) -> float:
        """Probability from which a label is said to be there, where a sample may have several."""
        return float(self.model.config.threshold)

    def probabilities(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """Of every class, (B, C): of one of them, or, where a sample may have several labels, of each by itself."""
        logits = self.logits(images, texts)
        return logits.sigmoid() if self.has_several_labels else logits.softmax(dim=1)

    @torch.inference_mode()
    def logits(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """Images and their texts → (B, C)."""
        ids, mask = self.preprocessor.tokens(texts)
        logits: Tensor = self.model(self.preprocessor.pixel_values(images), ids, mask).logits
        return logits


def assemble(
    *,
    image_encoder: Encoder,
    text_encoder: Encoder,
    trained: FusionModel,
    class_names: Sequence[str],
    max_text_tokens: int,
    threshold: float | None = None,
) -> FusionForClassification:
    """A complete classifier from two frozen encoders and the trained tensors between them.

    With a threshold, from which a label is said to be there, a sample may have several labels.
    """
    config = FusionConfig(
        image_config=_encoder_dict(image_encoder),
        text_config=_encoder_dict(text_encoder),
        architecture=trained.architecture.as_dict(),
        max_text_tokens=max_text_tokens,
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
        problem_type="single_label_classification" if threshold is None else MULTI_LABEL,
        threshold=0.5 if threshold is None else threshold,
    )
    model = FusionForClassification(config)
    for name, encoder in (("image_encoder", image_encoder), ("text_encoder", text_encoder)):
        if hasattr(model, name):
            getattr(model, name).load_state_dict(encoder.state_dict())
    model.fusion.load_state_dict(trained.state_dict())
    model.train(False)
    return model


def _encoder_dict(encoder: Encoder) -> dict[str, Any]:
    values = encoder.config.to_dict()
    return {
        key: value for key, value in values.items() if key not in ("architectures", "dtype", "transformers_version")
    }


def export(
    directory: Path,
    *,
    model: FusionForClassification,
    image_processor: Any,
    tokenizer: Any,
    facts: Mapping[str, Any],
) -> None:
    """Write a model folder; an existing one is replaced only when the new one is complete.

    Args:
        directory: Where to.
        model: What.
        image_processor: Of the image encoder.
        tokenizer: Of the text encoder.
        facts: Plain values by name, for the model card and for `architecture.yaml` beside the genes; `data`, the form
            of the data, for the latter alone.

    Raises:
        ExportError: If the folder holds something else, or cannot be written.
    """
    directory = Path(os.path.abspath(directory))
    if directory.exists() and not directory.is_dir():
        raise ExportError(f"{directory}: is a file; name a folder")
    if directory.exists() and any(directory.iterdir()) and not (directory / DESCRIPTION).is_file():
        raise ExportError(f"{directory}: is not empty and holds no exported model; name another folder")
    temporary = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary)
        image_processor.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        describe(temporary, facts)
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if directory.exists():
            shutil.rmtree(directory)
        temporary.rename(directory)
        sync_directory(directory.parent)
    except (OSError, SafetensorError) as error:  # a full disk is either
        reason = getattr(error, "strerror", None) or error
        raise ExportError(f"{directory}: the model cannot be written: {reason}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def describe(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write what is known of an exported model: `architecture.yaml` for programs, `README.md` for people.

    Raises:
        ExportError: If the folder cannot be written.
    """
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        description = {"architecture": config["architecture"], **facts}
        card = _model_card(config, {name: value for name, value in facts.items() if name != "data"})
        write_atomically(directory / DESCRIPTION, yaml.safe_dump(description, sort_keys=False).encode())
        write_atomically(directory / "README.md", card.encode())
    except OSError as error:
        raise ExportError(f"{directory}: the model cannot be described: {error.strerror or error}") from error


def exported_form(directory: Path) -> dict[str, Any]:
    """The form of the data that an exported model was trained on: keys and values of a search file's `data`.

    Raises:
        ExportError: If the folder's `architecture.yaml` cannot be read.
    """
    _check_exported(directory)
    path = directory / DESCRIPTION
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        form: dict[str, Any] = dict(values["data"])
        if form["reader"] not in READERS or not isinstance(form.get("columns", {}), dict):
            raise ValueError(f"data is {form}")
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: does not say what data the model was trained on: {error}") from error
    return form


def _check_exported(directory: Path) -> None:
    if not (directory / "config.json").is_file():
        raise ExportError(f"{directory}: is no exported model (a file config.json is expected there)")


def open_exported(directory: Path) -> ExportedModel:
    """Open what `export` wrote; needs nothing but the folder.

    Raises:
        ExportError: If it is no exported model.
    """
    _check_exported(directory)
    try:
        kind = json.loads((directory / "config.json").read_text()).get("model_type")
        if kind != FusionConfig.model_type:
            raise ExportError(f"{directory}: model_type is {kind!r}; an exported model has {FusionConfig.model_type!r}")
        model, report = FusionForClassification.from_pretrained(
            directory, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
        names: dict[Any, str] = dict(model.config.id2label or {})
        max_text_tokens = int(model.config.max_text_tokens)
    except ExportError:
        raise
    except Exception as error:  # transformers, and a model of a damaged configuration, check little of what they read
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise ExportError(f"{directory}: the model cannot be loaded: {type(error).__name__}: {reason}") from error
    if report["missing_keys"]:  # which transformers has filled with anything
        raise ExportError(
            f"{directory}: the model cannot be loaded: {len(report['missing_keys'])} of its weights are missing, "
            f"{min(report['missing_keys'])} among them; export it again"
        )
    model.train(False)
    return ExportedModel(
        model=model,
        preprocessor=Preprocessor(
            image_processor=load_image_processor(str(directory)),
            tokenizer=load_tokenizer(str(directory)),
            max_text_tokens=max_text_tokens,
        ),
        class_names=tuple(names[index] for index in range(len(names))),
    )


def logits_of_samples(exported: ExportedModel, samples: Samples, images: ImageSource) -> Tensor:
    """Logits of every sample, from raw images and texts, in order, (N, C).

    Raises:
        DataError: If an image cannot be read.
    """
    return torch.cat(
        [
            exported.logits([images.open(name) for name in names], texts)
            for names, texts in _batches(samples.images, samples.texts)
        ]
    )


def _batches(images: Sequence[str], texts: Sequence[str]) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    for start in range(0, len(texts), _EVALUATION_BATCH):
        stop = start + _EVALUATION_BATCH
        yield images[start:stop], texts[start:stop]


def _model_card(config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    def rows(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in values.items():
            if isinstance(value, Mapping):
                yield from rows(value, f"{prefix}{name} ")
            else:
                text = f"{value:.4f}" if isinstance(value, float) else str(value)
                yield f"| {(prefix + name).replace('_', ' ')} | {text} |"

    usage = (
        "print([name for name, value in zip(exported.class_names, probabilities) if value > exported.threshold])"
        if config.get("problem_type") == MULTI_LABEL
        else "print(exported.class_names[probabilities.argmax()])"
    )
    architecture = Architecture.from_dict(config["architecture"])
    genes = {gene.name: format_gene(getattr(architecture, gene.name)) for gene in architecture.genes}
    return f"""---
library_name: transformers
---
# {architecture.title} classifier

{architecture.source} What is trained of it was trained from fresh weights, after its architecture was chosen. The
encoders that it uses are included.

| gene | value |
| --- | --- |
{chr(10).join(rows(genes))}

| fact | value |
| --- | --- |
{chr(10).join(rows(facts))}

Classes: {", ".join(config["id2label"].values())}.

```python
from pathlib import Path

from PIL import Image

from nas.run.export import open_exported

exported = open_exported(Path("this folder"))
probabilities = exported.probabilities([Image.open("picture.png").convert("RGB")], ["a text"])[0]
{usage}
```
"""
