"""Starts the page for strangers: the app.py of a Hugging Face Space. PSALM_CHECKPOINT names the checkpoint (default: psalm-tiny)."""

import os
import sys

from psalm_hf.cli.app import main

if __name__ == "__main__":
    checkpoint = os.environ.get("PSALM_CHECKPOINT", "psalm-tiny")
    sys.exit(main(["--host", "0.0.0.0", "--no-labelling", "--checkpoint", checkpoint, *sys.argv[1:]]))
