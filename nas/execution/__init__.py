"""Runs jobs: in this process or in Ray workers, under a memory budget."""

from nas.execution.base import Executor
from nas.execution.ledger import Ledger
from nas.execution.worker import CandidateWorker, WorkerSetup, full_weights_path

__all__ = ["CandidateWorker", "Executor", "Ledger", "WorkerSetup", "full_weights_path"]
