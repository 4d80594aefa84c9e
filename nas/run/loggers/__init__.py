"""Loggers: callbacks that write to TensorBoard, through the library's own client."""
