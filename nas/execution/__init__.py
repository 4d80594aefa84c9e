"""Run jobs, in this process or in Ray workers, within the memory budget of every device."""
