"""Another way to call `psalm prepare ade20k`."""

import sys

from psalm_hf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main(["ade20k", *sys.argv[1:]]))
