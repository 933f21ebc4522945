"""Follows objects through a folder of frames or a video file: `psalm video`."""

import sys

from psalm_hf.cli.video import main

if __name__ == "__main__":
    sys.exit(main())
