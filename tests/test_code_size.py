"""Limits on the size of modules, functions and parameter lists."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import REPOSITORY

MAX_MODULE_LINES = 350
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8

EXCEPTIONS: dict[str, str] = {}
"""Module, or module and function → the reason why it may exceed a limit."""


def parameter_count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the parameters that a caller passes, without `self` and `cls`."""
    arguments = function.args
    names = [entry.arg for entry in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    variadic = [entry for entry in (arguments.vararg, arguments.kwarg) if entry is not None]
    return len([name for name in names if name not in ("self", "cls")]) + len(variadic)


def violations(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the problem of everything in a module that exceeds a limit."""
    name, text = path.relative_to(REPOSITORY).as_posix(), path.read_text()
    lines = len(text.splitlines())
    if lines > MAX_MODULE_LINES:
        yield name, f"{lines} lines, expected at most {MAX_MODULE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines, parameters = node.end_lineno - node.lineno + 1, parameter_count(node)
            if lines > MAX_FUNCTION_LINES:
                yield f"{name}:{node.name}", f"{lines} lines, expected at most {MAX_FUNCTION_LINES}"
            if parameters > MAX_PARAMETERS:
                yield f"{name}:{node.name}", f"{parameters} parameters, expected at most {MAX_PARAMETERS}"


def test_modules_functions_and_parameter_lists_stay_small() -> None:
    paths = [path for folder in ("nas", "benchmarks") for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    found = [entry for path in paths for entry in violations(path)]
    problems = [f"{name}: {problem}" for name, problem in found if name not in EXCEPTIONS]
    assert not problems, "\n".join(problems)
    stale = EXCEPTIONS.keys() - {name for name, _ in found}
    assert not stale, f"no longer needed: {sorted(stale)}"
