"""A run whose study is stored in each of the backends."""

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest

from nas.search.trial import STAGES, Stage
from nas.storage.backends.database import HOLDER_ATTRIBUTE
from nas.storage.backends.journal import JOURNAL, LOCK
from nas.storage.lease import Holder
from nas.storage.reader import StudyReader
from nas.storage.study import Study
from tests.support.postgresql import running_server
from tests.support.study_writer import SPACE


def with_driver(url: str) -> str:
    """Return a URL for programs other than `Study`, with the PostgreSQL driver that is installed here."""
    return url.replace("postgresql:", "postgresql+psycopg2:")


@dataclass(frozen=True)
class StoredRun:
    """One run in one kind of storage."""

    directory: Path
    name: str
    url: str | None

    def open(self, **changes: Any) -> Study:
        arguments: dict[str, Any] = {"name": self.name, "storage": self.url} | changes
        return Study(self.directory, SPACE, **arguments)

    def read(self, warnings: list[str], **changes: Any) -> StudyReader:
        """Read the study as `export` does; warnings are added to a list."""
        arguments: dict[str, Any] = {"name": self.name, "storage": self.url} | changes
        return StudyReader(self.directory, SPACE, warn=warnings.append, **arguments)

    @property
    def optuna_storage(self) -> optuna.storages.BaseStorage:
        """The storage as other programs open it."""
        if self.url is not None:
            return optuna.storages.RDBStorage(with_driver(self.url))
        journal = optuna.storages.journal.JournalFileBackend(str(self.directory / JOURNAL))
        return optuna.storages.JournalStorage(journal)

    def overwrite_lease(self, holder: Holder) -> None:
        """Write the record of another driver over that of the open study."""
        if self.url is None:
            (self.directory / LOCK).write_text(json.dumps(asdict(holder)))
            return
        storage = self.optuna_storage
        study = storage.get_study_id_from_name(f"{self.name}/{STAGES[0]}")
        storage.set_study_user_attr(study, HOLDER_ATTRIBUTE, asdict(holder))

    def optuna_study(self, stage: Stage) -> optuna.Study:
        return optuna.load_study(study_name=f"{self.name}/{stage}", storage=self.optuna_storage)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    with running_server() as url:
        yield url


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with Optuna's tables, which take half a second to create."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    storage.remove_session()
    storage.engine.dispose()
    return path


@pytest.fixture
def sqlite_url(empty_database: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_database, tmp_path / 'study.db')}"


@pytest.fixture
def quickly_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other driver takes these leases, so waiting for one is not needed."""
    monkeypatch.setattr("nas.storage.lease._SETTLE_SECONDS", 0.0)


@pytest.fixture(
    params=[
        "journal",
        pytest.param("sqlite", marks=pytest.mark.long),
        pytest.param("postgresql", marks=pytest.mark.postgresql),
    ]
)
def run(request: pytest.FixtureRequest, tmp_path: Path, quickly_settled: None) -> StoredRun:
    url = None
    if request.param == "sqlite":
        url = request.getfixturevalue("sqlite_url")
    elif request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")
    return StoredRun(tmp_path, f"run {uuid.uuid4().hex}", url)


@pytest.fixture
def journal(tmp_path: Path) -> StoredRun:
    return StoredRun(tmp_path, "run", None)


@pytest.fixture
def sqlite_run(tmp_path: Path, sqlite_url: str, quickly_settled: None) -> StoredRun:
    return StoredRun(tmp_path, "run", sqlite_url)
