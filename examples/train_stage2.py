"""Stage 2: joint training on a mixture of tasks.

    accelerate launch examples/train_stage2.py --config stage2_paper
    torchrun --nproc_per_node 2 examples/train_stage2.py --config tiny_shapes --gradient_accumulation_steps 2

The same as `psalm train`, whose --help lists the fields of a config, as a file for launchers.
"""

import sys

from psalm_hf.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
