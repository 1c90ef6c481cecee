"""From a model to predictions: export, Paddle Inference, records."""
