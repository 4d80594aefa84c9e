"""Describe exported models: `architecture.yaml` for programs, `README.md` for people."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nas.common.boundary import SMALL_FILE, reading
from nas.common.errors import ExportError
from nas.common.files import write_atomically
from nas.common.yaml_files import read_yaml
from nas.models.classifier import MULTI_LABEL, RETRIEVAL
from nas.models.model_seals import DESCRIPTION, MODEL_CARD, seal_model
from nas.run.format_card import FORMATS_HEADING, format_sections
from nas.run.tables import markdown_text
from nas.search.keys import BilinearKey, LinearKey
from nas.search.space import Architecture
from nas.search.trial import Stage

_CARD = """---
library_name: transformers
---
# {title} {kind}

{source} {training} The encoders are included.

{genes}

| fact | value |
| --- | --- |
{facts}

{use}"""

_CLASSIFIER_USE = """Classes: {classes}.

```python
import nas

loaded = nas.load("this folder")
print(loaded.predict("picture.png", "a text"))  # {result}; pictures are paths, or PIL images of any mode
print(loaded.predict_proba("picture.png", "a text"))
```
"""

_RETRIEVAL_USE = """The higher the dot product of their embeddings, the better do a picture and a text fit.

```python
import nas

loaded = nas.load("this folder")
pictures = loaded.embed_images(["one.png", "another.png"])  # paths, or PIL images of any mode
texts = loaded.embed_texts(["a text", "another text"])
print((texts @ pictures.T).argmax(axis=1))  # the best picture of each text
```
"""

_ELSEWHERE = ("data", "members")
"""The facts that are not in the card's table of facts."""

_TRAINING: Mapping[Stage, str] = {
    "one_shot": "This candidate was only screened: its trained tensors are a slice of the supernet's, which all "
    "architectures of the search share. A complete training would give a better model.",
    "short": "This candidate was trained only briefly, from the slice of a supernet's weights that it shared with "
    "other architectures. A complete training would give a better model.",
    "full": "The trained tensors were trained completely, from fresh weights, after the architecture had been chosen.",
}
"""The training of a candidate that has completed each stage."""

_LINEAR = (
    "Nothing but the classifier was trained: logistic regression on the outputs of the frozen encoders, solved to its "
    "optimum, with the L2 penalty that was best on validation."
)

_BILINEAR = (
    "Nothing but the classifier was trained: logistic regression on the outputs of the frozen encoders and on products "
    "of their whitened principal components, solved to its optimum, with the L2 penalties that were best on validation."
)

_SOLVED = {LinearKey().name: _LINEAR, BilinearKey().name: _BILINEAR}

_ENSEMBLE = (
    "This is an ensemble of {count} models: its probabilities are the weighted mean of theirs. Each was trained "
    "completely, from fresh weights, and all share the frozen encoders."
)


def describe(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write the description of an exported model into its folder, and the checksums of all its files.

    Args:
        directory: The folder, which holds `config.json`.
        facts: Plain values by name.

    Raises:
        ExportError: If the folder cannot be written.
    """
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        description = {"architecture": config["architecture"], **facts}
        if members := config.get("members"):
            description["members"] = facts.get("members", members)
        card = _model_card(config, {name: value for name, value in facts.items() if name not in _ELSEWHERE})
        write_atomically(directory / DESCRIPTION, yaml.safe_dump(description, sort_keys=False).encode())
        write_atomically(directory / MODEL_CARD, card.encode())
        seal_model(directory)
    except OSError as error:
        raise ExportError(f"{directory}: the model cannot be described: {error.strerror or error}") from error


def describe_formats(directory: Path, formats: Mapping[str, Mapping[str, Any]]) -> None:
    """Add facts about files of other formats to the description of an exported model, and sections to its model card.

    The rest of the card is kept as it is, since it may have been edited.

    Args:
        directory: The folder, which holds a description.
        formats: Facts about each file, by the name of the format; those of other formats are kept.

    Raises:
        ExportError: If the description cannot be read, or the folder cannot be written.
    """
    expected = "the description of an exported model"
    path, card_path = directory / DESCRIPTION, directory / MODEL_CARD
    with reading(path, expected=expected, error=ExportError, problem="is damaged"):
        description = dict(read_yaml(path, expected=expected, error=ExportError, max_bytes=SMALL_FILE))
        description["formats"] = {**description.get("formats", {}), **formats}
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        card = card_path.read_text(encoding="utf-8") if card_path.exists() else ""
        card = card.partition(FORMATS_HEADING)[0] + format_sections(description["formats"], config)
        write_atomically(path, yaml.safe_dump(description, sort_keys=False).encode())
        write_atomically(card_path, card.encode())
        seal_model(directory)
    except OSError as error:
        raise ExportError(f"{directory}: the model cannot be described: {error.strerror or error}") from error


def _model_card(config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    result = "the predicted classes" if config.get("problem_type") == MULTI_LABEL else "the class"
    is_retrieval = config.get("task") == RETRIEVAL
    classes = ", ".join(map(markdown_text, config.get("id2label", {}).values()))
    architecture, members = Architecture.from_dict(config["architecture"]), config.get("members")
    if members:
        training, table = _ENSEMBLE.format(count=len(members)), _members_table(members)
    else:
        training = _SOLVED.get(facts.get("trial", "")) or _TRAINING[facts.get("stage", "full")]
        table = _genes_table(architecture)
    return _CARD.format(
        title=f"{architecture.title} ensemble" if members else architecture.title,
        source=architecture.source,
        training=training,
        genes="\n".join(table),
        facts="\n".join(_rows(facts)),
        kind="for retrieval" if is_retrieval else "classifier",
        use=_RETRIEVAL_USE if is_retrieval else _CLASSIFIER_USE.format(classes=classes, result=result),
    )


def _genes_table(architecture: Architecture) -> Iterator[str]:
    """Yield the lines of a table with the genes of an architecture."""
    yield from ("| gene | value |", "| --- | --- |")
    yield from _rows(architecture.texts())


def _members_table(members: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table with the architectures of an ensemble."""
    yield from ("| architecture | weight |", "| --- | --- |")
    for member in members:
        architecture = str(Architecture.from_dict(member["architecture"]))
        yield f"| {markdown_text(architecture)} | {member['weight']:.3f} |"


def _rows(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield one row of a Markdown table for each value, with nested names joined."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{name} ")
        else:
            text = f"{value:.4f}" if isinstance(value, float) else str(value)
            yield f"| {markdown_text((prefix + name).replace('_', ' '))} | {markdown_text(text)} |"
