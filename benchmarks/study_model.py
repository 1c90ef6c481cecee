"""The model of benchmarks/study.py, small enough for a CPU, and the project's scripts with it:

python benchmarks/study_model.py main.py --model lvvit_32 …
"""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime  # noqa: F401 (sets what Paddle reads when it is imported)

from models import FAMILY, ModelConfig

NAME = 'lvvit_32'  # 8x8 tokens at 32 pixels, 0.7 million parameters
CONFIG = ModelConfig(dict(embed_dim=96, depth=6, num_heads=3, patch_size=4), input_size=32, crop_pct=1.0)

if __name__ == '__main__':
    FAMILY[NAME] = CONFIG
    del sys.argv[0]
    runpy.run_path(str(Path(__file__).resolve().parents[1] / sys.argv[0]), run_name='__main__')
