"""Another way to call `psalm prepare coco_interactive`."""

import sys

from psalm_hf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main(["coco_interactive", *sys.argv[1:]]))
