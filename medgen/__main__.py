"""`python -m medgen` is the command line."""

import sys

from medgen.cli import main

if __name__ == "__main__":
    sys.exit(main())
