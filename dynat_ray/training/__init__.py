"""The worker's side of training, in plain PyTorch: it runs in one process or in many."""
