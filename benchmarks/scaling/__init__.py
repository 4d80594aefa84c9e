"""What `benchmarks.scale` measures: the work on data by number of samples, and the driver by number of nodes."""
