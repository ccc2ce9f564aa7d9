"""Push throughput to a virtual device, side by side in one run: mobilekit, each `adb push` there is, and `cp`.

usage: push_throughput.py [--megabytes 100] [--runs 5]

The device is this machine's own ABI (no emulator in the way of the daemon). Each way moves the same random bytes, in
turn, to a new name; the median of the runs and the spread are printed in MB/s.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mobilekit.device import adb, virtual


def adb_programs() -> dict[str, str]:
    """The adb on PATH and the one in adbutils' wheel, by version; the same server serves only its own version."""
    import adbutils

    bundled = Path(adbutils.__file__).parent / "binaries" / "adb"
    found: dict[str, str] = {}
    for program in (shutil.which("adb"), str(bundled)):
        if program and Path(program).is_file():
            text = subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout
            found[text.splitlines()[1].removeprefix("Version ").split("-")[0]] = program
    return found


def timed(run: Callable[[str], None], runs: int, size: int) -> list[float]:
    rates = []
    for number in range(runs):
        started = time.perf_counter()
        run(f"push{number}")
        rates.append(size / 1e6 / (time.perf_counter() - started))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    size = arguments.megabytes * 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "bytes"
        source.write_bytes(os.urandom(size))
        (folder / "copies").mkdir()

        def copy(to: str) -> None:
            subprocess.run(["cp", source, folder / "copies" / to], check=True)
            (folder / "copies" / to).unlink()

        rows = [("cp", timed(copy, arguments.runs, size))]
        for label, program in [("mobilekit", ""), *((f"adb {v}", p) for v, p in adb_programs().items())]:
            rows.append((label, _over_adb(program, source, size, arguments.runs)))
    for label, rates in rows:
        print(f"{label:<14} {statistics.median(rates):7.0f} MB/s   ({min(rates):.0f} to {max(rates):.0f})")


def _over_adb(program: str, source: Path, size: int, runs: int) -> list[float]:
    """Each adb version on a server of its own port, since a client ends a server of another version."""
    port = str(20_000 + os.getpid() % 10_000 + len(program) % 100)
    os.environ["ANDROID_ADB_SERVER_PORT"] = port
    if program:
        subprocess.run([program, "start-server"], check=True, capture_output=True)
    device = virtual.start(abi="x86_64", storage_bytes=2 * size + 64_000_000)
    try:
        remote = adb.select(device.serial)

        def push(to: str) -> None:
            target = f"/data/local/tmp/{to}"
            if program:
                command = [program, "-s", device.serial, "push", str(source), target]
                subprocess.run(command, check=True, capture_output=True)
            else:
                remote.push(source, target)
            remote.shell(["rm", target])

        return timed(push, runs, size)
    finally:
        virtual.stop(device.name)
        subprocess.run([program or "adb", "kill-server"], check=False, capture_output=True)


if __name__ == "__main__":
    main()
