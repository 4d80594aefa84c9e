import importlib
import pkgutil
import subprocess
import sys
import types

import pytest

import nas
from tests.support.paths import REPOSITORY

WITH_LIBRARIES_OF_THEIR_OWN = {"nas.run.loggers.mlflow", "nas.run.loggers.wandb"}
"""Modules that need a library which only the extra `loggers` installs."""


def import_all_modules() -> None:
    names = {module.name for module in pkgutil.walk_packages(nas.__path__, "nas.")}
    assert names >= WITH_LIBRARIES_OF_THEIR_OWN
    for name in names - WITH_LIBRARIES_OF_THEIR_OWN:
        importlib.import_module(name)


def test_public_names_are_not_hidden_by_submodules() -> None:
    """Importing a submodule sets it as an attribute of its package, which would replace a function of that name."""
    import_all_modules()
    assert not {module.name for module in pkgutil.iter_modules(nas.__path__)} & set(nas.__all__)
    for name in nas.__all__:
        assert not isinstance(getattr(nas, name), types.ModuleType)


def test_every_public_function_can_be_called_after_all_modules_are_imported() -> None:
    import_all_modules()
    functions = {name: getattr(nas, name) for name in nas.__all__ if name[0].islower()}
    assert {"load", "load_config", "open_run", "register_metric", "resume", "run_search"} <= functions.keys()
    with pytest.raises(nas.NasError, match=r"^data: missing"):
        functions.pop("run_search")(progress=False)
    for name in ("load", "load_config", "open_run", "resume"):
        with pytest.raises(nas.NasError, match=r"^nowhere: "):
            functions.pop(name)("nowhere")
    for name, function in functions.items():  # without a lasting effect
        with pytest.raises(TypeError, match=rf"{name}\(\) missing \d required"):
            function()


def test_public_names_are_listed() -> None:
    assert set(nas.__all__) <= set(dir(nas))


def test_importing_the_package_loads_nothing_slow() -> None:
    code = (
        "import sys, nas\ndir(nas)\n"
        "heavy = {'torch', 'transformers', 'optuna', 'ray', 'pydantic', 'pandas', 'scipy', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


def test_other_names_are_attribute_errors() -> None:
    name = "nothing"
    with pytest.raises(AttributeError, match="module 'nas' has no attribute 'nothing'"):
        getattr(nas, name)
