"""The uses of Ray's private API, which a new version of Ray may remove."""

import pytest
import ray

from nas.execution.ray.internals import silence_worker_logs


def test_private_switch_of_worker_logs_exists_in_the_tested_version_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = "2.60."
    assert ray.__version__.startswith(tested), f"check silence_worker_logs with Ray {ray.__version__}"
    monkeypatch.setattr("ray._private.worker._worker_logs_enabled", True)
    silence_worker_logs()
    assert ray._private.worker._worker_logs_enabled is False


def test_version_of_ray_without_the_switch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("ray._private.worker._worker_logs_enabled")
    silence_worker_logs()
    assert not hasattr(ray._private.worker, "_worker_logs_enabled")
