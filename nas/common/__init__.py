"""What every package may use: errors, files, units, progress, seeds, interruption."""
