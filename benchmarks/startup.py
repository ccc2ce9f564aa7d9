"""How long `mobilekit --help` takes as a whole process: the median of 20 runs, and a bare interpreter beside it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from _timing import alternate, run_process


def main() -> None:
    program = Path(sys.executable).parent / "mobilekit"
    here = Path.cwd()
    ours, bare = alternate(
        [
            lambda: run_process([program, "--help"], cwd=here),
            lambda: run_process([sys.executable, "-c", "pass"], cwd=here),
        ],
        20,
    )
    print(
        f"mobilekit --help: {ours.seconds * 1e3:.0f} ms, {ours.peak_mb:.0f} MB; "
        f"bare Python: {bare.seconds * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
