"""Runs jobs: in this process or in Ray workers, under a memory budget."""

import nas.common.fast_imports  # noqa: F401 - first: a worker's process begins here
from nas.execution.base import Device, Ended, Executor, SupernetOrder, SupernetProgress, WorkerLost
from nas.execution.ledger import Ledger, WaitingLine
from nas.execution.placement import Placement
from nas.execution.worker import FROZEN, CandidateWorker, WorkerSetup, full_weights_path, process_environment

__all__ = [
    "FROZEN",
    "CandidateWorker",
    "Device",
    "Ended",
    "Executor",
    "Ledger",
    "Placement",
    "SupernetOrder",
    "SupernetProgress",
    "WaitingLine",
    "WorkerLost",
    "WorkerSetup",
    "full_weights_path",
    "process_environment",
]
