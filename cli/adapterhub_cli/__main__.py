"""`python -m adapterhub_cli` is the `adapterhub` command."""

import sys

from adapterhub_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
