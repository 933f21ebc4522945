"""Holds a dialogue about an image, in words and masks: `psalm chat`."""

import sys

from psalm_hf.cli.chat import main

if __name__ == "__main__":
    sys.exit(main())
