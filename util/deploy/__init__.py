"""From a model to answers: export, Paddle Inference, records."""
