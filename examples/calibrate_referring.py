"""Finds when a checkpoint's queries answer an expression: `psalm calibrate`.

python examples/calibrate_referring.py --checkpoint outputs/tiny/stage2_second
"""

import sys

from psalm_hf.cli.calibrate import main

if __name__ == "__main__":
    sys.exit(main())
