"""Run jobs, in this process or in Ray workers, under the memory budget of every device."""
