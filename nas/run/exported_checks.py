"""Check the folder of an exported model as a whole before anything of it is built."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from nas.common.boundary import read_json, reading, shown
from nas.common.errors import ExportError
from nas.models.classifier import CLASSIFICATION, MULTI_LABEL, RETRIEVAL, FusionConfig, FusionForClassification
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import build_encoder
from nas.models.encoders.config_check import check_encoder_config
from nas.models.encoders.folder_check import check_folder, stored_weights
from nas.models.encoders.pretrained import config_of
from nas.models.encoders.registry import ENCODERS, EncoderFamily, supported_model_types
from nas.models.fusion.base import sizes_of
from nas.models.model_seals import CONFIG
from nas.models.retrieval import FusionForRetrieval, model_class_of
from nas.search.space import Architecture

_PROBLEM_TYPES = (None, "single_label_classification", MULTI_LABEL)
_MAX_CLASSES = 100_000
_MAX_GENE = 1_000_000
_MAX_MEMBERS = 1_000
_MAX_TEMPLATES = 1_000
_WEIGHT_TOLERANCE = 1e-6
_SLACK = 1_000_000


def check_exported(folder: Path) -> tuple[Encoder, Encoder]:
    """Check the files, the configuration and the size of the weights of an exported model.

    Args:
        folder: The folder.

    Returns:
        Its encoders on the meta device, without weights.

    Raises:
        ExportError: If something is missing, damaged or not allowed; names the file, the key and the value.
    """
    path = find_config(folder)
    check_folder(folder, ExportError)
    values = read_json(path, expected="the configuration of an exported model", error=ExportError)
    if values.get("model_type") != FusionConfig.model_type:
        raise ExportError(
            f"{folder}: model_type is {shown(values.get('model_type'))}; expected {FusionConfig.model_type!r}, which "
            "exported models have"
        )
    _check_labels(path, values)
    image, text = (_meta_encoder(path, values, modality) for modality in ("image", "text"))
    _check_number(path, "max_text_tokens", values.get("max_text_tokens"), int, (1, text.max_text_tokens))
    _check_number(path, "threshold", values.get("threshold"), float, (0, 1))
    _check_architecture(path, "architecture", values.get("architecture"), image, text)
    _check_members(path, values, image, text)
    check_class_texts(path, values, text)
    _check_size(path, values)
    return image, text


def exported_class(folder: Path) -> type[FusionForClassification]:
    """Return the class of an exported model that `check_exported` has accepted.

    Args:
        folder: The folder.
    """
    path = folder / CONFIG
    values = read_json(path, expected="the configuration of an exported model", error=ExportError)
    return FusionForRetrieval if values.get("task") == RETRIEVAL else FusionForClassification


def find_config(folder: Path) -> Path:
    """Return the configuration file of an exported model.

    Args:
        folder: The folder.

    Raises:
        ExportError: If there is none.
    """
    path = folder / CONFIG
    with reading(folder, expected="the folder of an exported model", error=ExportError):
        exists = path.exists()
    if not exists:
        raise ExportError(f"{folder}: holds no exported model; expected a file {CONFIG} in it")
    return path


def _refuse(path: Path, key: str, problem: str, expected: str, value: object) -> ExportError:
    return ExportError(f"{path}: {key}: {problem}; expected {expected}, got {shown(value)}")


def _check_labels(path: Path, values: Mapping[str, Any]) -> None:
    names, task = values.get("id2label"), values.get("task", CLASSIFICATION)
    if task not in (CLASSIFICATION, RETRIEVAL):
        raise _refuse(path, "task", "unknown", f"{CLASSIFICATION} or {RETRIEVAL}", task)
    if task == RETRIEVAL:
        if names:
            raise _refuse(path, "id2label", "not allowed", f"no classes with task {RETRIEVAL}", names)
        return
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise _refuse(path, "id2label", "no names of classes", "an object with a name for each class index", names)
    if len(names) > _MAX_CLASSES:
        raise _refuse(path, "id2label", "too many classes", f"at most {_MAX_CLASSES:,}", len(names))
    missing = next((str(index) for index in range(len(names)) if str(index) not in names), None)
    if missing is not None:
        raise _refuse(path, f"id2label.{missing}", "is missing", f"the names 0 to {len(names) - 1}", sorted(names))
    repeated = next((name for name, count in Counter(names.values()).items() if count > 1), None)
    if repeated is not None:
        raise _refuse(path, "id2label", "two classes have one name", "a name for each class", repeated)
    indices = values.get("label2id")
    if indices is not None and indices != {name: int(index) for index, name in names.items()}:
        raise _refuse(path, "label2id", "does not fit id2label", "the index of each name in id2label", indices)
    if values.get("problem_type") not in _PROBLEM_TYPES:
        expected = " or ".join(filter(None, _PROBLEM_TYPES))
        raise _refuse(path, "problem_type", "not allowed", expected, values["problem_type"])


def _check_number(path: Path, key: str, value: Any, kind: Callable[[Any], float], bounds: tuple[float, float]) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not bounds[0] <= value <= bounds[1] or kind(value) != value:
        name = "a whole number" if kind is int else "a number"
        raise _refuse(path, key, "not allowed", f"{name} from {bounds[0]} to {bounds[1]}", value)


def _meta_encoder(path: Path, values: Mapping[str, Any], modality: str) -> Encoder:
    """Build an encoder without weights."""
    key = f"{modality}_config"
    section = values.get(key)
    model_type = section.get("model_type") if isinstance(section, dict) else None
    family = ENCODERS.get(model_type) if isinstance(model_type, str) else None
    if not isinstance(section, dict) or not isinstance(family, EncoderFamily) or family.modality != modality:
        expected = f"an object with model_type {', '.join(supported_model_types(modality))}"
        raise _refuse(path, key, f"is no {modality} encoder", expected, model_type if section else section)
    with reading(f"{path}: {key}", expected="the configuration of an encoder", error=ExportError):
        config: PreTrainedConfig = config_of(section)
    check_encoder_config(config, family, f"{path}: {key}", ExportError)
    with reading(f"{path}: {key}", expected="the configuration of an encoder", error=ExportError), torch.device("meta"):
        return build_encoder(config)


def _check_members(path: Path, values: Mapping[str, Any], image: Encoder, text: Encoder) -> None:
    """Check the members of an ensemble; a single model has none."""
    members = values.get("members")
    if members is None:
        return
    if not isinstance(members, list) or not 2 <= len(members) <= _MAX_MEMBERS:
        raise _refuse(path, "members", "is no list of members", f"a list of 2 to {_MAX_MEMBERS}", members)
    for index, member in enumerate(members):
        key = f"members[{index}]"
        if not isinstance(member, dict):
            raise _refuse(path, key, "is no member", "an object with architecture and weight", member)
        _check_architecture(path, f"{key}.architecture", member.get("architecture"), image, text)
        _check_number(path, f"{key}.weight", member.get("weight"), float, (0, 1))
    total = sum(member["weight"] for member in members)
    if abs(total - 1) > _WEIGHT_TOLERANCE:
        raise _refuse(path, "members", "their weights do not add up", "a sum of 1", total)
    first, own = members[0]["architecture"], values["architecture"]
    if Architecture.from_dict(first) != Architecture.from_dict(own):
        raise _refuse(path, "architecture", "is not that of the first member", shown(first), own)


def _check_architecture(path: Path, key: str, values: Any, image: Encoder, text: Encoder) -> None:
    if not isinstance(values, dict):
        raise _refuse(path, key, "is no architecture", "an object with the family and its genes", values)
    for gene, value in values.items():
        numbers = [value]
        while numbers:
            number = numbers.pop()
            if isinstance(number, list):
                numbers += number
            elif gene == "family" or isinstance(number, str):
                continue  # a family, or the name of a value, which are looked up below
            elif type(number) is not int or not 0 <= number <= _MAX_GENE:
                raise _refuse(path, f"{key}.{gene}", "not allowed", f"0 to {_MAX_GENE:,}", number)
    with reading(
        f"{path}: {key}",
        expected=f"a family with its genes for encoders of {image.num_layers} and {text.num_layers} layers",
        error=ExportError,
        problem=f"not allowed: {shown(values)}",
    ):
        Architecture.from_dict(values).entry_layers(sizes_of(image, text))


def check_class_texts(path: Path, values: Mapping[str, Any], text: Encoder) -> None:
    """Check the token ids of the texts of the classes, of a family that reads them.

    Args:
        path: The configuration file, for messages.
        values: The configuration of an exported model, with a valid architecture and valid class names.
        text: The text encoder, without weights.

    Raises:
        ExportError: If they are missing or not allowed; names the key and the value.
    """
    found = values.get("class_texts")
    if values.get("task") == RETRIEVAL and found is None:
        return
    members = [Architecture.from_dict(member["architecture"]) for member in values.get("members") or [values]]
    if found is None and not any(member.reads_class_texts for member in members):
        return
    ids, prefixes = (found.get(key) for key in ("ids", "prefixes")) if isinstance(found, dict) else (None, None)
    count, vocabulary = len(values["id2label"]), int(text.config.vocab_size)
    if not isinstance(ids, list) or not 0 < len(ids) <= _MAX_TEMPLATES or not all(map(_is_list_of(count), ids)):
        raise _refuse(path, "class_texts.ids", "not allowed", f"lists with a text for each of {count} classes", ids)
    limit = text.max_text_tokens
    for row in itertools.chain.from_iterable(ids):
        is_text = isinstance(row, list) and 2 <= len(row) <= limit and all(_is_id(entry, vocabulary) for entry in row)
        if not is_text:
            raise _refuse(path, "class_texts.ids", "not allowed", f"2 to {limit} token ids below {vocabulary}", row)
    shortest = [min(map(len, texts)) for texts in ids]
    if not isinstance(prefixes, list) or len(prefixes) != len(ids) or not all(map(_is_id, prefixes, shortest)):
        expected = "the number of tokens before the name of the class, for each template"
        raise _refuse(path, "class_texts.prefixes", "not allowed", expected, prefixes)


def _is_list_of(count: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) == count


def _is_id(value: Any, count: int) -> bool:
    return type(value) is int and 0 <= value < count


def _check_size(path: Path, values: Mapping[str, Any]) -> None:
    """Check, before memory is taken for it, that the model is not much larger than its weights."""
    stored = stored_weights(path.parent, ExportError, allows_pickles=False)
    with reading(path, expected="that of an exported model", error=ExportError, problem="no model can be built of it"):
        config = FusionConfig.from_dict(dict(values))
        with torch.device("meta"):
            model = model_class_of(config)(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > 2 * (stored.numbers or 0) + _SLACK:
        raise ExportError(
            f"{path}: describes a model of {count:,} weights; expected the configuration of {stored.files[0].name}, "
            f"which holds {stored.numbers:,}"
        )
