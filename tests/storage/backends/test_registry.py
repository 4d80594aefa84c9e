"""Storage backends are found by the scheme of a URL."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nas.common.errors import ExtensionError, StudyError
from nas.storage.backends.base import Access
from nas.storage.backends.journal import JOURNAL, JournalFileStorage
from nas.storage.backends.open import open_storage
from nas.storage.backends.registry import register_storage_backend
from nas.storage.study import Study
from tests.support.study_writer import SPACE


class ToyStorage(JournalFileStorage):
    """A backend whose journal is in the directory that its URL names."""

    def __init__(
        self, directory: Path, url: str | None, name: str, note: Callable[[str], object], access: Access
    ) -> None:
        assert url is not None
        super().__init__(Path(url.removeprefix("toy://")), None, name, note, access)


def test_backend_of_another_package_stores_the_studies_of_its_scheme(tmp_path: Path) -> None:
    register_storage_backend("toy", storage="tests.storage.backends.test_registry:ToyStorage")
    (tmp_path / "elsewhere").mkdir()
    url = f"toy://{tmp_path / 'elsewhere'}"
    architecture = next(iter(SPACE))
    with Study(tmp_path, SPACE, name="run", storage=url) as study:
        assert study.start(architecture) == 0
    assert (tmp_path / "elsewhere" / JOURNAL).exists() and not (tmp_path / JOURNAL).exists()
    with Study(tmp_path, SPACE, name="run", storage=url) as again:
        assert again.running == {0: architecture}


def test_scheme_cannot_be_registered_twice(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="stores nothing"):  # the built-in backends are registered at the first use
        open_storage(tmp_path, "sqlite://", "run", print, "create")
    with pytest.raises(ExtensionError, match="storage backend 'sqlite'"):
        register_storage_backend("sqlite", storage="tests.storage.backends.test_registry:ToyStorage")


@pytest.mark.parametrize("url", ["nosuch://host/name", "journal://host/name"])
def test_unknown_scheme_is_refused_with_the_known_ones(url: str, tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match="unknown kind of database; expected one of sqlite, postgresql, mysql, mariadb"
    ):
        open_storage(tmp_path, url, "run", print, "create")
