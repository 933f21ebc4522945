"""Another way to call `psalm prepare refcoco`."""

import sys

from psalm_hf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main(["refcoco", *sys.argv[1:]]))
