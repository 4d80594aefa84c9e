"""Train models and the supernet; losses, metrics, checkpoints."""
