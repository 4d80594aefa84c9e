import subprocess
import sys
from pathlib import Path

import pytest


def run(code: str, directory: Path | None = None) -> list[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=directory).stdout.split()


@pytest.mark.long
def test_frameworks_are_excluded_from_collection_and_later_objects_are_not() -> None:
    is_enabled, frozen_count, is_cycle_collected = run(
        "import gc\nfrom nas.common.fast_imports import import_frameworks\nimport_frameworks()\n"
        "print(gc.isenabled(), gc.get_freeze_count())\n"
        "class Node: pass\nnode = Node()\nnode.itself = node\ndel node\nprint(gc.collect() > 0)"
    )
    assert is_enabled == is_cycle_collected == "True"
    assert int(frozen_count) > 300_000


def test_a_disabled_collector_stays_disabled(tmp_path: Path) -> None:
    for name in ("torch", "transformers", "transformers/modeling_utils"):  # empty ones are imported at once
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    assert run(
        "import gc, sys\nfrom nas.common.fast_imports import import_frameworks\ngc.disable()\nimport_frameworks()\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 0, 'transformers.modeling_utils' in sys.modules)",
        tmp_path,
    ) == ["False", "True", "True"]


@pytest.mark.long
def test_importing_models_and_executors_does_not_touch_the_collector() -> None:
    assert run(
        "import gc, nas.common.fast_imports, nas.models.classifier, nas.execution.serial\n"
        "print(gc.isenabled(), gc.get_freeze_count())"
    ) == ["True", "0"]


@pytest.mark.parametrize("command", ["space", "search", "compare"])
def test_mistakes_in_a_search_file_are_found_before_anything_slow_is_imported(command: str, tmp_path: Path) -> None:
    source = tmp_path / "search.yaml"
    source.write_text("data: 3\n")
    program = (
        f"import sys; from nas.cli import main; status = main([{command!r}, {str(source)!r}]); "
        "sys.exit(bool({'torch', 'transformers', 'ray'} & set(sys.modules)) or status)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "- data: invalid value; expected a mapping, got 3" in ended.stderr, ended.stderr
