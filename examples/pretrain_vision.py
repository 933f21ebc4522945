"""Vision pretraining on the shapes world, the first step of a model that starts from nothing: `psalm train --config tiny_vision`."""

import sys

from psalm_hf.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
