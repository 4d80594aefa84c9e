"""Searches whose file leaves values to the program."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from nas.common import devices
from nas.common.errors import ConfigError, EncoderError, ExecutionError
from nas.config.load import load_config
from nas.config.overrides import Overrides
from nas.run import defaults, executors
from nas.run.defaults import complete, usable_memory
from nas.run.directory import read_run, read_study
from nas.run.executors import ExecutionOptions
from nas.run.reruns import read_simple_result
from nas.run.roles import LINEAR
from nas.search.trial import Result
from tests.support.project import Project
from tests.support.runs import counts_of, run_search


def short_file(project: Project, **sections: object) -> Path:
    """Write a search file with little besides the data and encoders of the small project."""
    values = {key: value for key, value in project.values().items() if key in ("data", "encoders")}
    path = project.root / "short.yaml"
    path.write_text(yaml.safe_dump(values | sections))
    return path


def test_search_prints_and_keeps_the_values_that_it_has_chosen(
    project: Project, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = short_file(project, recipe={"steps": 8}, search={"finalists": 1, "rerun_seeds": 0})
    monkeypatch.setattr(defaults, "usable_memory", lambda device: 3 * 2**30)
    output = run_search(source, tmp_path / "run", options, trials=3)
    lines = [line.split() for line in output.splitlines()]
    assert ["recipe.batch_size", "8", "36", "training", "samples"] in lines
    assert ["supernet.steps", "10", "5", "full", "trainings", "with", "4", "architectures", "per", "step"] in lines
    assert ["budget.memory", "3.00", "GiB", "the", "memory", "of", "this", "machine"] in lines
    recorded_run = read_run(tmp_path / "run")
    recorded = recorded_run.config
    assert not recorded.automatic
    assert (recorded.recipe.batch_size, recorded.supernet.steps, recorded.search.short_training_steps) == (8, 10, 1)
    assert recorded.space.choices["fusion_layer"] == (0, 1, 2)
    monkeypatch.setattr(defaults, "usable_memory", lambda device: 2 * 2**30)  # as on another machine
    assert "holds this search; resuming it" in run_search(source, tmp_path / "run", options, trials=4)
    assert read_run(tmp_path / "run").config.budget.memory_bytes == 3 * 2**30
    assert counts_of(tmp_path / "run")[0] == 4
    linear = read_simple_result(tmp_path / "run", LINEAR)
    assert linear is not None and recorded.space.choices["text_readout"] == (0, 1)
    chosen = {readouts_of(result) for result in read_study(tmp_path / "run", recorded_run).results("one_shot")}
    assert chosen == {readouts_of(linear)}  # without it, the smallest and the largest would have different ones


def readouts_of(result: Result) -> tuple[object, object]:
    values = result.architecture.values()
    return values["image_readout"], values["text_readout"]


def test_short_training_as_long_as_a_full_one_is_refused_with_the_numbers_of_both(
    project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    source = project.write("long.yaml", **{"recipe.epochs": 2, "search.short_training_steps": 8})
    with pytest.raises(ConfigError) as refused:
        run_search(source, tmp_path / "run", options)
    assert refused.value.problems == (
        "search.short_training_steps: as long as a full training; expected fewer than its 8 steps (recipe.epochs: 2, "
        "36 training samples in batches of 8), got 8",
    )
    assert not (tmp_path / "run").exists()


def test_missing_encoders_are_the_first_on_this_machine(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {"image": ("nobody/nothing", str(project.root / "vit")), "text": (str(project.root / "bert"),)}
    monkeypatch.setattr(defaults, "DEFAULT_ENCODERS", folders)
    monkeypatch.setattr(defaults, "is_local", lambda name: not name.startswith("nobody"))
    source = short_file(project, encoders="auto")
    config = complete(load_config(source), source=str(source))
    assert (config.encoders.image, config.encoders.text) == (folders["image"][1], folders["text"][0])


def test_missing_encoders_that_cannot_be_loaded_are_named_with_what_to_install(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        defaults, "DEFAULT_ENCODERS", {"image": ("package:nobody/vit",), "text": ("package:nobody/vit",)}
    )
    source = short_file(project, encoders={"text": "./bert"})
    with pytest.raises(EncoderError, match=r"^encoders\.image: missing, and .* `hf download package:nobody/vit`"):
        complete(load_config(source), source=str(source))


def test_command_line_replaces_values_before_the_rest_follows_from_them(project: Project) -> None:
    source = short_file(project)
    draft = Overrides(trials=5, memory_bytes=2**30, seed=4).apply(load_config(source))
    config = complete(draft, source=str(source))
    assert (config.budget.trials, config.budget.time_seconds, config.budget.memory_bytes) == (5, None, 2**30)
    assert config.seed == 4 and config.recipe.epochs == 50  # 200 steps of 4 batches
    assert 2**28 < usable_memory(torch.device("cpu")) < 2**45


def test_automatic_memory_budget_follows_the_device_of_the_workers(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "accelerator", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(defaults, "total_bytes", lambda device: 80 * 2**30)
    source = short_file(project)
    found = {}
    for choice in ("auto", "cuda", "cpu"):
        monkeypatch.setattr(executors, "accelerator", devices.accelerator)
        device = ExecutionOptions(device=choice).workers_device
        found[choice] = complete(load_config(source), source=str(source), device=device).budget.memory_bytes
    assert found == {"auto": 64 * 2**30, "cuda": 64 * 2**30, "cpu": usable_memory(torch.device("cpu"))}


def test_memory_budget_has_to_be_given_where_only_other_machines_have_gpus(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "accelerator", lambda: None)
    monkeypatch.setattr(executors, "accelerator", devices.accelerator)
    device = ExecutionOptions(device="cuda").workers_device
    source = short_file(project)
    with pytest.raises(ExecutionError, match=r"^budget\.memory: auto is .* none; expected a size .* --device cuda$"):
        complete(load_config(source), source=str(source), device=device)
    draft = Overrides(memory_bytes=2**30).apply(load_config(source))
    assert complete(draft, source=str(source), device=device).budget.memory_bytes == 2**30


def test_precision_alone_is_chosen_without_reading_data_or_encoders(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "read_dataset", None)
    monkeypatch.setattr(defaults, "load_config", None)
    config = load_config(project.write("precision.yaml", **{"recipe.precision": "auto"}))
    assert set(config.automatic) == {"recipe.precision"}
    done = defaults.complete(config, source="search.yaml")
    assert done.recipe.precision == "float32" and not done.automatic


def test_default_encoder_with_an_impossible_configuration_is_one_error(
    own_project: Project,
) -> None:
    path = own_project.root / "bert" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_size": 7}))
    config = load_config(own_project.write("automatic.yaml", **{"recipe.batch_size": "auto"}))
    with pytest.raises(EncoderError, match=r"bert: cannot be read: .* expected the configuration of a complete"):
        defaults.complete(config, source="automatic.yaml")
