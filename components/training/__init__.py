"""Training: devices, optimizers, steps, checkpoints and the loop that yields progress."""
