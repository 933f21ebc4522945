"""Measures a checkpoint on a benchmark: `psalm evaluate`, as a file for launchers.

accelerate launch examples/evaluate.py --benchmark refcoco --split testA --data-dir refer_seg --checkpoint DIR --output-dir OUT
"""

import sys

from psalm_hf.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
