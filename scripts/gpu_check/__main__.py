"""Begins the program, where Python is given this folder."""

import sys

from gpucheck.cli import main

if __name__ == "__main__":
    sys.exit(main())
