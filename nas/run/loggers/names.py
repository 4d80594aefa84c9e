"""The names of loggers, without slow imports."""

LOGGERS = ("tensorboard", "mlflow", "wandb")
"""The values of `--log-to`."""
