"""LV-ViT as a backbone of PaddleSeg, which does training, evaluation, prediction and export."""
