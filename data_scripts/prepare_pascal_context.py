"""Another way to call `psalm prepare pascal_context`."""

import sys

from psalm_hf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main(["pascal_context", *sys.argv[1:]]))
