"""Estimates the memory that a training config needs on each GPU, before anything is started: `psalm estimate-memory`."""

import sys

from psalm_hf.cli.estimate_memory import main

if __name__ == "__main__":
    sys.exit(main())
