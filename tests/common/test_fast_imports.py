import subprocess
import sys


def run(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_frameworks_are_excluded_from_collection_and_later_objects_are_not() -> None:
    is_enabled, frozen_count, is_cycle_collected = run(
        "import gc\nfrom nas.common.fast_imports import import_frameworks\nimport_frameworks()\n"
        "print(gc.isenabled(), gc.get_freeze_count())\n"
        "class Node: pass\nnode = Node()\nnode.itself = node\ndel node\nprint(gc.collect() > 0)"
    )
    assert is_enabled == is_cycle_collected == "True"
    assert int(frozen_count) > 300_000


def test_a_disabled_collector_stays_disabled() -> None:
    assert run(
        "import gc\nfrom nas.common.fast_imports import import_frameworks\ngc.disable()\nimport_frameworks()\n"
        "print(gc.isenabled())"
    ) == ["False"]


def test_importing_models_and_executors_does_not_touch_the_collector() -> None:
    assert run(
        "import gc, nas.common.fast_imports, nas.models.classifier, nas.execution.serial\n"
        "print(gc.isenabled(), gc.get_freeze_count())"
    ) == ["True", "0"]
