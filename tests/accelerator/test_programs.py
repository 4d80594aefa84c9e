"""Whole programs on an accelerator."""

from pathlib import Path

import pytest
import torch

from nas.cli import main
from tests.support.project import Project
from tests.support.simulated_accelerator import NAME, operators

pytestmark = pytest.mark.accelerator


def scores(printed: str) -> dict[str, float]:
    """Return the metrics that `evaluate` has printed, which are its first lines."""
    lines = [line.split(" (")[0].split(": ") for line in printed.partition("\n\n")[0].splitlines()]
    return {name: float(value) for name, value in lines}


def test_search_evaluate_and_predict_on_the_accelerator(
    project: Project, tmp_path: Path, device: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--run-dir", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]
    on_device = ["--device", device.type]
    source = project.write("accelerated.yaml", **{"budget.trials": 2, "budget.memory": "4GiB"})
    with operators() as counts:
        command = ["search", str(source), "--workers", "0", *places, *on_device, "--precision", "bfloat16"]
        assert main(command) == 0, capsys.readouterr().err
    assert "(failed)" not in capsys.readouterr().out
    assert counts.get("aten::addmm", 0) > 0 or device.type != NAME
    model = str(tmp_path / "run" / "best")
    data = ["--data", str(project.manifest), "--images", str(project.images)]
    found = []
    for place in ("cpu", device.type):
        with operators() as counts:
            assert main(["evaluate", model, *data, "--device", place]) == 0
        assert bool(counts) == (place == NAME)
        found.append(scores(capsys.readouterr().out))
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert main(["evaluate", model, *data, *on_device, "--precision", "bfloat16"]) == 0
    printed = capsys.readouterr().out
    assert scores(printed)["cross_entropy"] == pytest.approx(found[0]["cross_entropy"], rel=0.05)
    assert "note: products were computed in bfloat16" in printed
    image = ["--image", str(next(project.images.iterdir())), "--text", "apple"]
    answers = []
    for place in ("cpu", device.type):
        assert main(["predict", model, *image, "--device", place]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
