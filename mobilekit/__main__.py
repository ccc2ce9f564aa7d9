"""The first lines of ``python -m mobilekit`` and of the ``mobilekit`` script: Ctrl-C is 130 while they import, too."""

import atexit
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; leaves with an exit code."""
    try:
        from mobilekit import interrupts

        interrupts.install()
        atexit.register(interrupts.end)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.stderr.flush()
        os._exit(130)
    try:
        from mobilekit.cli.main import run
    except interrupts.Interrupted:
        interrupts.leave()
    run()


if __name__ == "__main__":
    main()
