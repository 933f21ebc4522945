"""Another way to call `psalm prepare ego_exo4d`."""

import sys

from psalm_hf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main(["ego_exo4d", *sys.argv[1:]]))
