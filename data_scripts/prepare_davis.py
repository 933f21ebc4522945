"""Another way to call `psalm prepare davis`."""

import sys

from psalm_hf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main(["davis", *sys.argv[1:]]))
