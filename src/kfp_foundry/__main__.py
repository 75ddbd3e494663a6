"""Runs `python -m kfp_foundry`, which is `kfp-foundry`."""

import sys

from kfp_foundry.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
