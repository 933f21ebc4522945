"""Segments one image by categories, expressions, points, boxes, scribbles or masks: `psalm segment`."""

import sys

from psalm_hf.cli.segment import main

if __name__ == "__main__":
    sys.exit(main())
