"""Begins the program, where Python is given this folder or an archive of it."""

import sys

from trtwork.jobs import main  # type: ignore[import-not-found]  # on the path where this runs

main(sys.argv[1:])
