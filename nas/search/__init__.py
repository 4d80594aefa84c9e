"""Search spaces, objectives, and the strategies that propose architectures. Nothing here imports torch."""
