"""Runs jobs: in this process or in Ray workers, under a memory budget."""

from nas.execution.base import Executor
from nas.execution.ledger import Ledger
from nas.execution.worker import FROZEN, CandidateWorker, WorkerSetup, full_weights_path

__all__ = ["FROZEN", "CandidateWorker", "Executor", "Ledger", "WorkerSetup", "full_weights_path"]
