"""LV-ViT as a backbone of PaddleSeg: models and their weights here, training, evaluation and export by PaddleSeg."""
