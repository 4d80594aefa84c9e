"""Whether a pretrained encoder is on this machine. Imports no torch."""

import importlib.util

from huggingface_hub import try_to_load_from_cache


def is_local(name: str) -> bool:
    """Return whether an encoder of a package or of the hub is on this machine.

    Args:
        name: `package:NAME/FOLDER`, or a name on the Hugging Face Hub.
    """
    package = name.removeprefix("package:")
    if package != name:
        return importlib.util.find_spec(package.partition("/")[0]) is not None
    return isinstance(try_to_load_from_cache(name, "config.json"), str)
