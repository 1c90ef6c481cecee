"""The LV-ViT family for paddle.hub: paddle.hub.load(DIR, 'lvvit_s', source='local', pretrained=True)."""

from models import lvvit, lvvit_l, lvvit_m, lvvit_nano, lvvit_nano_patch8, lvvit_s, lvvit_t, vit

__all__ = ['lvvit', 'lvvit_l', 'lvvit_m', 'lvvit_nano', 'lvvit_nano_patch8', 'lvvit_s', 'lvvit_t', 'vit']
dependencies = ['numpy', 'yaml', 'tqdm', 'safetensors']
