"""Training: optimizer, step, compiled programs, checkpoints and the loop."""
