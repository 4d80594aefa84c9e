"""Imports of the `nas` packages point one way, and light packages load no heavy library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

ORDER = (
    "common",
    "search",
    "models",
    "config",
    "data",
    "training",
    "memory",
    "storage",
    "execution",
    "run",
    "transformers_classes",
    "cli",
)
"""Packages from low to high; a module imports only from its own package and from lower ones."""

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(Module, imported module) → the reason why the import may point to a higher package."""

LIBRARIES = {"ray": ("nas/execution/ray/",), "optuna": ("nas/search/strategies/", "nas/storage/")}
"""The only folders that import these libraries."""

HEAVY = {"torch", "transformers", "optuna", "ray", "torchmetrics", "matplotlib"}

HEAVY_MODULES = {
    "nas.common.devices": "asks torch for its devices",
    "nas.common.torch_files": "writes files in torch's format",
    "nas.common.vml_workaround": "calls functions of torch",
    "nas.search.strategies.optuna_samplers": "imported only when one of its strategies is built",
}
"""Modules of light packages that import a heavy library, and the reason."""


REGISTRIES = (
    "nas.config.reader_registry:READERS",
    "nas.models.encoders.registry:ENCODERS",
    "nas.search.costs:COSTS",
    "nas.search.metric_registry:METRICS",
    "nas.search.space.family_registry:FAMILIES",
    "nas.search.strategies.registry:STRATEGIES",
)


def python_files(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def imported_modules(path: Path) -> Iterator[str]:
    """Yield every module that a file imports anywhere, also inside functions and for type checking."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "nas")


def package_of(module: str) -> str:
    return module.split(".")[1]


def module_name(path: Path) -> str:
    return relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_every_package_has_a_place_in_the_order() -> None:
    found = {path.name.removesuffix(".py") for path in (REPOSITORY / "nas").iterdir() if not path.name.startswith("__")}
    assert found == {*ORDER, "py.typed"}


@pytest.mark.parametrize("path", python_files("nas"), ids=relative)
def test_modules_import_from_their_own_package_and_lower_ones(path: Path) -> None:
    module = module_name(path)
    if module == "nas":  # the public API, above everything
        return
    for imported in imported_modules(path):
        if imported.startswith("nas.") and (module, imported) not in EXCEPTIONS:
            assert ORDER.index(package_of(imported)) <= ORDER.index(package_of(module)), f"{module} imports {imported}"
        library = imported.split(".")[0]
        assert library not in ("tests", "benchmarks"), f"{module} imports {imported}"
        if library in LIBRARIES:
            assert relative(path).startswith(LIBRARIES[library]), f"{module} imports {imported}"


@pytest.mark.parametrize("path", [*python_files("benchmarks"), *python_files("demo")], ids=relative)
def test_benchmarks_and_demo_do_not_import_tests(path: Path) -> None:
    assert "tests" not in {imported.split(".")[0] for imported in imported_modules(path)}


def test_light_modules_load_no_heavy_library() -> None:
    light = [
        path
        for path in python_files("nas")
        if path.name == "register.py" or relative(path).startswith(("nas/common/", "nas/search/", "nas/config/"))
    ]
    names = ["nas", *(name for name in map(module_name, light) if name not in HEAVY_MODULES)]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = {HEAVY!r} & set(sys.modules)\n"
        "    assert not loaded, f'{name} loads {loaded}'\n"
        f"for target in {REGISTRIES!r}:\n"
        "    names = importlib.import_module('nas.common.registry').load_object(target).names()\n"
        f"    loaded = {HEAVY!r} & set(sys.modules)\n"
        "    assert names and not loaded, f'{target} loads {loaded}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"]])
def test_help_loads_no_heavy_library(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from nas.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        f"assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
