"""Peak memory of a training: predicted without running it, measured, and calibrated."""
