"""Trackers that people watch runs with: TensorBoard, MLflow, Weights & Biases."""
