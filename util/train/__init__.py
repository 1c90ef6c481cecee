"""Training: targets, loss, schedule, optimizer, and the state of a run."""
