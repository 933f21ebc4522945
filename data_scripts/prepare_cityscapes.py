"""Another way to call `psalm prepare cityscapes`."""

import sys

from psalm_hf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main(["cityscapes", *sys.argv[1:]]))
