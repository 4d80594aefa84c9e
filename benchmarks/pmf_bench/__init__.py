"""PMF-Bench: completely trained architectures of the demo's space, in the style of NAS-Bench."""

from benchmarks.pmf_bench.table import Row, Table, read_table

__all__ = ["Row", "Table", "read_table"]
