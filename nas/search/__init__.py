"""What can be chosen, what is wanted, and what to try next. Nothing here imports torch."""
