"""Another way to call `psalm prepare coco_semantic`."""

import sys

from psalm_hf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main(["coco_semantic", *sys.argv[1:]]))
