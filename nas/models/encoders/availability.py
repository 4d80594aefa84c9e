"""Whether a pretrained encoder is on this machine, and which are. Imports no torch."""

import importlib.util
import json
from dataclasses import dataclass

from huggingface_hub import CacheNotFound, scan_cache_dir, try_to_load_from_cache

from nas.models.encoders.registry import supported_model_types

_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class CachedEncoder:
    """An encoder in the local cache of the Hugging Face Hub.

    Args:
        name: Its name on the hub.
        hidden_size: Its width; 0 where its configuration does not state one.
    """

    name: str
    hidden_size: int


def is_local(name: str) -> bool:
    """Return whether an encoder of a package or of the hub is on this machine.

    Args:
        name: `package:NAME/FOLDER`, or a name on the Hugging Face Hub.
    """
    package = name.removeprefix("package:")
    if package != name:
        return importlib.util.find_spec(package.partition("/")[0]) is not None
    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def cached_encoders(modality: str) -> list[CachedEncoder]:
    """Return the encoders of a modality in the local cache of the hub whose weights are there, by name.

    Args:
        modality: "image" or "text".
    """
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    types, found = supported_model_types(modality), {}
    for repository in repositories:
        for revision in repository.revisions if repository.repo_type == "model" else ():
            files = {file.file_name: file.file_path for file in revision.files}
            if "config.json" not in files or not any(name.endswith(_WEIGHTS) for name in files):
                continue
            try:
                config = json.loads(files["config.json"].read_text(encoding="utf-8"))
            except (OSError, ValueError):  # a damaged file of another program is no encoder
                continue
            if isinstance(config, dict) and config.get("model_type") in types:
                size = config.get("hidden_size")
                found[repository.repo_id] = CachedEncoder(repository.repo_id, size if isinstance(size, int) else 0)
    return [found[name] for name in sorted(found)]
