import pytest

from nas.common.errors import TrainingError
from nas.common.shortage import is_out_of_memory
from nas.execution.failure_policy import SAME_FAILURES, WORKER_CRASHES, FailurePolicy
from nas.search.trial import Failure, FailureKind
from tests.support.factories import make_failure, make_job


def failure(trial: int, kind: FailureKind, cause: str = "cause") -> Failure:
    return make_failure(job=make_job(trial=trial), kind=kind, cause=cause, reason=f"reason {trial}")


class Recorder:
    """A policy with the failures that it has recorded, and the candidates to be tried alone."""

    def __init__(self) -> None:
        self.recorded: list[int] = []
        self.alone: set[int] = set()
        self.policy = FailurePolicy(
            was_alone=lambda job: job.trial in self.alone,
            try_alone=lambda job: self.alone.add(job.trial),
            record=lambda failure: self.recorded.append(failure.job.trial),
        )


def test_kill_from_outside_never_counts() -> None:
    recorder = Recorder()
    assert {recorder.policy.judge(failure(1, "killed_externally")) for _ in range(20)} == {"requeued"}


def test_third_crash_is_recorded_once_another_job_has_succeeded() -> None:
    recorder = Recorder()
    verdicts = [recorder.policy.judge(failure(1, "crash")) for _ in range(WORKER_CRASHES)]
    assert verdicts == ["requeued", "requeued", "rejected"] and recorder.recorded == []
    recorder.policy.settle()
    assert recorder.recorded == [1]


def test_out_of_memory_is_retried_alone_and_then_recorded() -> None:
    recorder = Recorder()
    assert recorder.policy.judge(failure(1, "memory")) == "retry_alone" and recorder.alone == {1}
    assert recorder.policy.judge(failure(1, "memory")) == "rejected" and recorder.recorded == [1]


def test_consecutive_failures_with_one_cause_stop_the_search_and_are_not_recorded() -> None:
    recorder = Recorder()
    for trial in range(SAME_FAILURES - 1):
        assert recorder.policy.judge(failure(trial, "error")) == "rejected"
    with pytest.raises(TrainingError, match="3 consecutive candidates failed with the same cause: reason 2"):
        recorder.policy.judge(failure(2, "error"))
    assert recorder.recorded == []


def test_different_causes_or_a_result_in_between_do_not_stop_the_search() -> None:
    recorder = Recorder()
    for trial in range(6):
        recorder.policy.judge(failure(trial, "error", cause=str(trial)))
    recorder.policy.settle()
    for trial in range(6, 12):
        recorder.policy.judge(failure(trial, "error"))
        recorder.policy.settle()
    assert recorder.recorded == list(range(12))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_out_of_memory_is_recognised_from_every_allocator(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
    assert (Failure.of(make_job(), error, 5).kind == "memory") is expected
