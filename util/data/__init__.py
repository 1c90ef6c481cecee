"""From image files and label maps to batches."""
