"""Run a program on the simulated accelerator: python -m tests.support.simulated_accelerator -m MODULE …"""

import runpy
import sys

from tests.support.simulated_accelerator import load

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] != "-m":
        raise SystemExit(f"simulated accelerator: expected -m MODULE and its arguments, got {sys.argv[1:]}")
    load()
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
