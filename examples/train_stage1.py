"""Stage 1: vision-language alignment. Images and captions, no instruction; only the projector learns, or what the config names.

    accelerate launch examples/train_stage1.py --config stage1_paper
    python examples/train_stage1.py --config tiny_stage1 --max_steps 100 --output_dir DIR

The same as `psalm train`, whose --help lists the fields of a config, as a file for launchers.
"""

import sys

from psalm_hf.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
