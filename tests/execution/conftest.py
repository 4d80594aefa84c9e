"""The setup of workers for the toy project, with an untrained supernet."""

import pytest

from nas.common.progress import build_reporter
from nas.config.load import load_config
from nas.execution.worker_setup import WorkerSetup
from nas.models.fusion.supernet import build_supernet
from nas.run.executors import write_worker_setup
from nas.run.prepare import prepare
from nas.training.checkpoint import save_weights
from tests.support.project import Project


@pytest.fixture(scope="session")
def setup(project: Project, tmp_path_factory: pytest.TempPathFactory) -> WorkerSetup:
    config = load_config(project.root / "search.yaml")
    with build_reporter() as reporter:
        prepared = prepare(config, source="", cache_directory=tmp_path_factory.mktemp("cache"), reporter=reporter)
    setup = write_worker_setup(config, prepared, tmp_path_factory.mktemp("run"), thread_count=1)
    supernet = build_supernet(
        image_encoder=prepared.image_encoder,
        text_encoder=prepared.text_encoder,
        space=config.space,
        num_classes=3,
        seed=0,
    )
    save_weights(setup.supernet_path, supernet, steps="5")
    return setup
