"""Ablations of the small project: every variant with every seed, paired, resumable; test only where asked for."""

import csv
import io
import statistics
from pathlib import Path
from typing import Any

import pytest

from nas.cli import main
from nas.common.errors import ArgumentError, StudyError
from nas.common.progress import LineReporter
from nas.config.load import load_config
from nas.config.overrides import Overrides
from nas.execution.worker import CandidateWorker
from nas.models.fusion.pmf.architecture import PMFArchitecture, trainable_parameter_count
from nas.run.ablation.ablate import AblationOrder, ablate
from nas.run.ablation.rows import GeneRequest
from nas.run.executors import ExecutionOptions
from nas.run.reruns import RerunStore
from nas.search.keys import AblationKey
from nas.search.paired import PairedDifference
from nas.search.trial import Job, Result
from tests.run.conftest import FinishedRun
from tests.support.project import Project

GENES = (GeneRequest("query_prompts", ("1",)), GeneRequest("image_readout"))
DEFAULT = PMFArchitecture(1, 4, 4, 4, 12)
"""The default for the encoders of the small project."""


@pytest.fixture
def source(project: Project) -> Path:
    return project.write("ablated.yaml", **{"recipe.epochs": 1})


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The trainings of an ablation that are run."""
    seen: list[Job] = []
    run = CandidateWorker.run

    def noted(self: CandidateWorker, job: Job, **options: Any) -> list[Result]:
        seen.append(job)
        return run(self, job, **options)

    monkeypatch.setattr(CandidateWorker, "run", noted)
    return seen


def ablated(source: Path, directory: Path, options: ExecutionOptions, **order: Any) -> str:
    stream, overrides = io.StringIO(), Overrides(memory_bytes=order.pop("memory_bytes", None))
    wanted = AblationOrder(**{"genes": GENES, "seeds": 2, **order})
    ablate(source, directory, wanted, overrides=overrides, options=options, reporter=LineReporter(stream))
    return stream.getvalue()


def rows_of(directory: Path) -> list[dict[str, str]]:
    with (directory / "ablation.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_variant_is_trained_with_every_seed_and_compared_with_the_default(
    source: Path, options: ExecutionOptions, tmp_path: Path, ran: list[Job]
) -> None:
    directory = tmp_path / "ablation"
    output = ablated(source, directory, options)
    rows = rows_of(directory)
    assert [(row["gene"], row["value"], row["is_default"]) for row in rows] == [
        ("query_prompts", "1", "0"),
        ("query_prompts", "4", "1"),
        ("image_readout", "pooled", "1"),
        ("image_readout", "mean", "0"),
    ]
    assert len(ran) == 3 * 2, "the default is trained once for both genes"
    assert [job.key.seed for job in ran if isinstance(job.key, AblationKey)] == [0, 0, 0, 1, 1, 1]
    for seed in range(2):
        assert len({job.seed for job in ran[3 * seed : 3 * seed + 3]}) == 1, "differences are paired"
    assert ran[0].seed != ran[3].seed and all(job.learning_rate is None for job in ran), "the recipe of the file"
    assert {job.step_count for job in ran} == {load_config(source).recipe.step_count(36)}
    stored = {
        (result.architecture, result.seed): result for result in RerunStore(directory / "trainings.json").results()
    }
    assert len(stored) == 6
    for row, architecture in zip(
        rows, (PMFArchitecture(1, 1, 4, 4, 12), DEFAULT, DEFAULT, PMFArchitecture(1, 4, 4, 4, 12, 1)), strict=True
    ):
        assert row["architecture"] == str(architecture)
        results = [stored[architecture, seed] for seed in (ran[0].seed, ran[3].seed)]
        others = [stored[DEFAULT, seed] for seed in (ran[0].seed, ran[3].seed)]
        for metric in ("accuracy", "cross_entropy"):
            got = [float(row[f"validation_{metric}_seed{seed}"]) for seed in range(2)]
            assert got == [result.metrics[metric] for result in results]
        expected = PairedDifference.of(*([result.score for result in entry] for entry in (results, others)))
        assert expected is not None
        assert row["difference_mean"] == ("" if architecture == DEFAULT else str(expected.mean))
        assert int(row["trainable_parameters"]) == trainable_parameter_count(
            image_hidden_size=24, text_hidden_size=16, fusing_layers=2, architecture=architecture, num_classes=3
        )
    text = (directory / "ablation.txt").read_text()
    assert text in output and "test accuracy" not in text and "with 2 seeds" in text
    scores = [float(rows[0][f"validation_accuracy_seed{seed}"]) for seed in range(2)]
    assert f"{statistics.fmean(scores):.3f} ± {statistics.stdev(scores):.3f}" in text
    assert "query_prompts 1, seed 1: validation accuracy" in output and "default, seed 0: validation" in output
    assert "ablation: 6/6" in output
    assert (directory / "ablation.md").read_text().count("\n| ") == 4
    for gene in ("query_prompts", "image_readout"):
        plot = (directory / f"ablation_{gene}.svg").read_text()
        assert "(default)" in plot and "validation accuracy" in plot
    assert not (directory / "tests.json").exists(), "test is for those who ask for it"
    ran.clear()
    again = ablated(source, directory, options, seeds=3, genes=(*GENES, GeneRequest("mapping_width", ("1",))))
    assert {(job.architecture.value_at("mapping_width", 0)[0], job.key.seed) for job in ran} == {  # type: ignore[union-attr]
        *((12, 2), (1, 0), (1, 1), (1, 2))
    }, "further seeds and genes can be asked for later"
    assert "default, seed 0" not in again and len(rows_of(directory)) == 6


def test_budget_of_trainings_leaves_a_table_of_what_has_finished(
    source: Path, options: ExecutionOptions, tmp_path: Path, ran: list[Job]
) -> None:
    directory, genes = tmp_path / "ablation", GENES[:1]
    ablated(source, directory, options, genes=genes, trainings=3)
    assert len(ran) == 3 and "(1 of 2 seeds)" in (directory / "ablation.txt").read_text()
    (row, default) = rows_of(directory)
    assert row["difference_seeds"] == "1" and row["difference_low"] == "" and default["difference_seeds"] == ""
    ablated(source, directory, options, genes=genes, trainings=3, time_seconds=0.0)
    assert len(ran) == 3, "in all sessions together"
    ablated(source, directory, options, genes=genes, time_seconds=0.0)
    assert len(ran) == 3, "there is no time for another"
    output = ablated(source, directory, options, genes=genes)
    assert len(ran) == 4 and "ablation: 3/4" in output, "finished trainings are not repeated"
    again, _ = rows_of(directory)
    assert again["validation_accuracy_seed0"] == row["validation_accuracy_seed0"] and again["difference_seeds"] == "2"


def test_variant_that_does_not_fit_is_named_and_not_trained(
    source: Path, options: ExecutionOptions, tmp_path: Path, ran: list[Job]
) -> None:
    genes = [GeneRequest("mapping_width", ("4096",))]
    output = ablated(source, tmp_path / "ablation", options, genes=genes, seeds=1, memory_bytes=502 * 2**20)
    assert [job.architecture for job in ran] == [DEFAULT]
    row = rows_of(tmp_path / "ablation")[1]
    assert "the memory budget is 502.00 MiB" in row["remark"] and row["validation_accuracy_seed0"] == ""
    assert "mapping_width 4096: needs" in output and row["difference_mean"] == ""


@pytest.mark.slow
def test_test_split_is_evaluated_only_where_asked_for(
    source: Path, options: ExecutionOptions, tmp_path: Path, ran: list[Job]
) -> None:
    directory = tmp_path / "ablation"
    genes = [GeneRequest("query_prompts", ("1",))]
    ablated(source, directory, options, genes=genes, seeds=1)
    assert "test_accuracy_seed0" not in rows_of(directory)[0]
    output = ablated(source, directory, options, genes=genes, seeds=1, evaluates_test=True)
    assert len(ran) == 2 and output.count("evaluating the exported and reloaded model on test") == 2
    assert all(0 <= float(row["test_accuracy_seed0"]) <= 1 for row in rows_of(directory))
    assert "test accuracy" in (directory / "ablation.md").read_text() and not (directory / "model").exists()
    again = ablated(source, directory, options, genes=genes, seeds=1, evaluates_test=True)
    assert "evaluating" not in again, "each model is evaluated once"


@pytest.mark.long
def test_architecture_is_given_by_its_genes_or_by_a_run(
    project: Project, source: Path, options: ExecutionOptions, tmp_path: Path, ran: list[Job], finished: FinishedRun
) -> None:
    directory = tmp_path / "ablation"
    genes = [GeneRequest("query_context_prompts", ("0", "2"))]
    ablated(source, directory, options, genes=genes, seeds=1, architecture='{"fusion_layer": 2, "mapping_width": 3}')
    assert [job.architecture for job in ran] == [PMFArchitecture(2, 4, count, 4, 3) for count in (0, 2, 4)]
    with pytest.raises(StudyError, match="its architecture has changed"):
        ablated(source, directory, options, genes=genes, seeds=1)
    best = finished.directory
    for text, message in (("nowhere", "--architecture: not found; expected values"), ("{", "invalid JSON")):
        with pytest.raises(ArgumentError, match=message):
            ablated(source, tmp_path / "other", options, architecture=text)
    ran.clear()
    output = ablated(source, tmp_path / "best", options, genes=genes[:1], seeds=1, architecture=str(best), trainings=1)
    assert len(ran) == 1 and "PMF, fusion from layer" in output
    mbt = project.write("mbt.yaml", family="mbt", space={"fusion_layer": [1], "bottlenecks": [1, 2]})
    with pytest.raises(ArgumentError, match="wrong family; expected a run of mbt, got pmf"):
        ablated(mbt, tmp_path / "mbt", options, genes=(), architecture=str(best))


def test_trainings_of_other_settings_are_not_mixed(
    project: Project, source: Path, options: ExecutionOptions, tmp_path: Path
) -> None:
    directory, genes = tmp_path / "ablation", [GeneRequest("query_prompts", ("1",))]
    ablated(source, directory, options, genes=genes, seeds=1, trainings=1)
    other = project.write("other.yaml", **{"recipe.epochs": 3, "space.query_prompts": [1, 2, 3]})
    with pytest.raises(StudyError, match=r"holds another ablation:\n  - recipe.epochs: 1 → 3\nablate in a new"):
        ablated(other, directory, options, genes=genes, seeds=1)
    with pytest.raises(StudyError, match="is not empty and holds no ablation"):
        ablated(source, directory.parent, options, genes=genes)


def test_command_writes_the_table_and_unknown_genes_are_one_error(
    source: Path, options: ExecutionOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ["--run-dir", str(tmp_path / "ablation"), "--workers", "0", "--cache-dir", str(options.cache)]
    assert main(["ablate", str(source), "--gene", "depth", *rest]) == 2
    error = capsys.readouterr().err
    assert (
        error.strip().splitlines()[-1].startswith("error: --gene: unknown gene 'depth'; expected any of fusion_layer")
    )
    assert not (tmp_path / "ablation").exists()
    assert main(["ablate", str(source), "--gene", "query_prompts=1", "--seeds", "1", "--budget", "1", *rest]) == 0
    assert f"{tmp_path}/ablation/ablation.md" in capsys.readouterr().out
