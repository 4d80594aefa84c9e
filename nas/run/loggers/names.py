"""The names of loggers, without slow imports."""

LOGGERS = ("tensorboard",)
"""The values of `--log-to`."""
