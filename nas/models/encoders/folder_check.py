"""Check a checkpoint folder before transformers opens it: custom code, placeholders, damaged and unreadable files.

A folder from another source may contain Python code and name it in its JSON files. This program never runs such code,
and refuses the folder at once.
"""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from nas.common.boundary import check_no_lfs_pointer, check_regular_file, read_json, reading, shown
from nas.common.errors import EncoderError, NasError

SAFE_WEIGHTS = "model.safetensors"
SAFE_INDEX = "model.safetensors.index.json"
_PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_VOCABULARIES = ("tokenizer.json", "vocab.json")
_READ_SUFFIXES = (".json", ".safetensors", ".bin", ".txt", ".model", ".jinja", ".yaml")
_DESCRIPTIONS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    SAFE_INDEX,
    _PICKLED_WEIGHTS[1],
)
_CODE_KEYS = ("auto_map", "custom_pipelines")
_IMPLEMENTATION_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation")
"""The keys whose value may name a repository with code to download."""
_REFUSED_KEYS = {
    "quantization_config": "a checkpoint whose weights are not quantized",
    "transformers_weights": f"weights in {SAFE_WEIGHTS}",
}
_FLOATS = ("F64", "F32", "F16", "BF16")
_MAX_DESCRIPTION = 64 * 1024**2

ErrorType = Callable[[str], NasError]


@dataclass(frozen=True)
class StoredWeights:
    """The weights in the files of a folder.

    Args:
        files: The files.
        numbers: How many numbers they hold; None for pickled files, which are not opened to find out.
    """

    files: tuple[Path, ...]
    numbers: int | None


def check_folder(folder: Path, error: ErrorType = EncoderError) -> None:
    """Check the files of a checkpoint folder that transformers may read, without running anything that they name.

    Args:
        folder: The folder of an encoder or of an exported model.
        error: The type of the error.

    Raises:
        NasError: If a file names custom code, cannot be read, is no JSON object or is a Git LFS pointer, or if the
            folder holds an adapter or quantized weights. Names the file, the key and the value.
    """
    with reading(folder, expected="a folder that can be read", error=error):
        paths = sorted(path for path in folder.iterdir() if path.suffix in _READ_SUFFIXES)
    for path in paths:
        expected = "a JSON file" if path.suffix == ".json" else "a file of the checkpoint"
        if path.suffix == ".json" and path.name not in _VOCABULARIES:
            _check_description(path, error)
        elif path.name in (SAFE_WEIGHTS, *_VOCABULARIES) or (path.exists() and not path.is_dir()):
            check_regular_file(path, expected=expected, error=error)
            check_no_lfs_pointer(path, expected=expected, error=error)
    if (folder / "adapter_config.json").exists():
        raise error(
            f"{folder / 'adapter_config.json'}: adapters are not loaded; expected a complete checkpoint (merge the "
            "adapter into it with merge_and_unload, then save_pretrained)"
        )


def _check_description(path: Path, error: ErrorType) -> None:
    is_known = path.name in _DESCRIPTIONS
    try:
        values = read_json(path, expected="a JSON object", error=error, max_bytes=_MAX_DESCRIPTION)
    except NasError:
        if is_known:
            raise
        return  # transformers does not read it
    if is_known and path.read_bytes()[:3] == codecs.BOM_UTF8:
        raise error(f"{path}: begins with a byte order mark; expected a file that transformers can read, got EF BB BF")
    if is_known and not isinstance(values, dict):
        raise error(f"{path}: is not an object; expected a JSON object, got {shown(values)}")
    for key, value in _entries(values):
        if key in _CODE_KEYS and isinstance(value, dict | list | str):
            raise error(
                f"{path}: {key}: custom code is never run; expected a checkpoint whose classes are part of "
                f"transformers, without this key, got {shown(value)}"
            )
        is_kernel = key in _IMPLEMENTATION_KEYS and isinstance(value, str) and "/" in value
        if is_kernel or (key == "trust_remote_code" and value is True):
            raise error(f"{path}: {key}: custom code is never run; expected no such key, got {shown(value)}")
    if path.name == "config.json":
        for key, expected in _REFUSED_KEYS.items():
            if values.get(key) is not None:
                raise error(f"{path}: {key}: is not supported; expected {expected}, got {shown(values[key])}")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all keys with their values, at any depth."""
    stack = [value]
    while stack:
        current = stack.pop()
        if isinstance(current, dict):
            yield from current.items()
            stack += current.values()
        elif isinstance(current, list):
            stack += current


def stored_weights(folder: Path, error: ErrorType = EncoderError, *, allows_pickles: bool = True) -> StoredWeights:
    """Find the files of the weights, and check that they are complete and hold floating-point numbers.

    Args:
        folder: The folder of an encoder or of an exported model.
        error: The type of the error.
        allows_pickles: Whether weights may be pickled by torch; they are then loaded as data only.

    Raises:
        NasError: If there are none, a file is missing, truncated or cannot be read, or a tensor has another dtype.
    """
    if (folder / SAFE_WEIGHTS).exists():
        files = [folder / SAFE_WEIGHTS]
    elif (folder / SAFE_INDEX).exists():
        files = _shards(folder / SAFE_INDEX, error)
    else:
        pickled = [folder / name for name in _PICKLED_WEIGHTS if (folder / name).exists()]
        if pickled and allows_pickles:
            return StoredWeights(tuple(pickled[:1]), None)
        hint = f", got {pickled[0].name}, which may hold code" if pickled else ""
        raise error(f"{folder}: holds no weights; expected a file {SAFE_WEIGHTS}{hint}")
    return StoredWeights(tuple(files), sum(_count_numbers(file, error) for file in files))


def _shards(index: Path, error: ErrorType) -> list[Path]:
    expected = "an index of weights, with the file of each under weight_map"
    values = read_json(index, expected=expected, error=error)
    with reading(index, expected=expected, error=error, problem="is damaged"):
        names = sorted(set(values["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError(f"weight_map names {shown(names)}")
    return [index.with_name(name) for name in names]


def _count_numbers(path: Path, error: ErrorType) -> int:
    expected = "complete weights in the safetensors format"
    check_regular_file(path, expected=expected, error=error)
    check_no_lfs_pointer(path, expected=expected, error=error)
    count = 0
    with reading(path, expected=expected, error=error), safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (the object is no mapping)
            tensor = file.get_slice(name)
            dtype, numbers = tensor.get_dtype(), 1
            for length in tensor.get_shape():
                numbers *= length
            if dtype not in _FLOATS and not name.endswith(("position_ids", "num_batches_tracked")):
                raise ValueError(f"{name} has the dtype {dtype}, not one of {', '.join(_FLOATS)}")
            count += numbers
    return count
