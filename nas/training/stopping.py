"""The exception that ends a training or an evaluation on request."""


class StopRequested(Exception):
    """Raised when `should_stop` returns true before the last step or batch; the caller discards the partial work."""
