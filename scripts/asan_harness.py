"""Build the harness of this machine with sanitizers, and print its path.

    python scripts/asan_harness.py

For tests that feed it damaged .param and .bin files: an invalid access, in ncnn too, ends it with exit code 99 and a
report on stderr (``ASAN_OPTIONS=exitcode=99``); undefined behaviour of our own code is reported as ``runtime error``.
Minutes the first time, then cached. Needs g++.
"""

from __future__ import annotations

import platform

from mobilekit.cli._common import terminal_progress
from mobilekit.device.harness.build import build_harness
from mobilekit.device.harness.toolchains import ABIS


def _main() -> None:
    abi = next(abi for abi, machine in ABIS.items() if machine == platform.machine())
    with terminal_progress() as progress:
        print(build_harness(abi, sanitize=True, progress=progress).path)


if __name__ == "__main__":
    _main()
