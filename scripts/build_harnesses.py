"""Build the harness for each ABI that this machine can build, so that parallel tests find it ready."""

from __future__ import annotations

import sys

from mobilekit.cli._common import terminal_progress
from mobilekit.device.harness.locate import find_harness
from mobilekit.errors import MissingToolError


def main() -> int:
    """A missing compiler is told and left to the tests, which skip by name; a failed build is an error."""
    with terminal_progress() as progress:
        for abi in ("arm64-v8a", "x86_64"):
            try:
                print(f"harness {abi}: {find_harness(abi, progress)}", file=sys.stderr)
            except MissingToolError as error:
                print(f"harness {abi}: not built: {error}\nhint: {error.hint}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
