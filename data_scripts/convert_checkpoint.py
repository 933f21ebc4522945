"""Another way to call `psalm convert`."""

import sys

from psalm_hf.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
