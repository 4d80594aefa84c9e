"""Loggers: callbacks that write to TensorBoard, MLflow or Weights & Biases, each through the library's own client."""
