"""From a batch to a step, and from steps to a run."""
