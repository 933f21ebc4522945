"""Segments many images by one prompt: `psalm predict`, as a file for launchers.

accelerate launch --num_processes 4 examples/predict.py photos --categories cup table --task instance --output predicted
"""

import sys

from psalm_hf.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
