import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_what_starts_a_process_leaves_the_frameworks_to_no_collection_and_collects_from_then_on() -> None:
    said = run(
        "import gc, nas.execution\nprint(gc.isenabled(), gc.get_freeze_count())\n"
        "class Node: pass\nnode = Node()\nnode.itself = node\ndel node\nprint(gc.collect() > 0)"
    ).split()
    assert said[0] == said[2] == "True" and int(said[1]) > 300_000


def test_models_in_anybodys_program_leave_its_collector_alone() -> None:
    said = run("import gc, nas.models.classifier\nprint(gc.isenabled(), gc.get_freeze_count())").split()
    assert said == ["True", "0"]
