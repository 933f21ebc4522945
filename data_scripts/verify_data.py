"""Another way to call `psalm verify`."""

import sys

from psalm_hf.cli.verify import main

if __name__ == "__main__":
    sys.exit(main())
