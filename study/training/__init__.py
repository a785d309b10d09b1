"""Training: the step, the loop, checkpoints, memory, several processes, and evaluation mode."""
