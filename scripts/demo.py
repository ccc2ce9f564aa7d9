"""``make demo``: the whole line on one machine: export a real model, push it over adb to a device, run, judge.

``--picture FILE.svg`` also draws the report, as the README shows it.

Without a phone the device is virtual: arm64 code where a cross compiler (or a built harness) and qemu are present,
else this machine's own processor behind the same adb, else no device at all (`local`); what is missing is said.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.cli._common import out_console, remark, terminal_progress
from mobilekit.errors import MobilekitError
from mobilekit.paths import data_dir
from mobilekit.progress import Progress
from mobilekit.report.console import render

if TYPE_CHECKING:
    from mobilekit.report.model import ValidationReport

MODEL = "pp_lcnet_orientation"
OUT = Path("out/demo")
PICTURE = "page.png"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to run. ``abi`` is empty for ``local``; ``lacking`` says what kept a better plan from being taken."""

    device: str
    abi: str
    ready: bool
    lacking: tuple[str, ...] = ()


def choose() -> Plan:
    """The best device that this machine can have without asking anybody."""
    from mobilekit.device import virtual
    from mobilekit.device.harness.locate import locate_harness
    from mobilekit.device.harness.toolchains import find_toolchain

    lacking: list[str] = []
    for abi in ("arm64-v8a", "x86_64"):
        found = virtual.probe(abi)
        if not found.mode:
            lacking.append(f"{abi} device: {found.summary}; {found.remedy}")
            continue
        if locate_harness(abi) is not None:
            return Plan(f"virtual:{abi}", abi, True, tuple(lacking))
        try:
            toolchain = find_toolchain(abi)
        except MobilekitError as error:
            lacking.append(f"{abi} harness: {error.message}; {error.hint}")
            continue
        if toolchain.name == "zig":  # a quarter of an hour on two cores: offered, not sprung on a newcomer
            lacking.append(f"{abi} harness: only zig is here (slow); mobilekit harness build --abi {abi} builds it")
            continue
        return Plan(f"virtual:{abi}", abi, False, tuple(lacking))
    return Plan("local", "", True, tuple(lacking))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, metavar="FILE.svg")
    arguments = parser.parse_args()
    started = time.monotonic()
    plan = choose()
    for text in plan.lacking:
        remark(f"not used: {text}")
    where = "the ncnn wheel on this machine (local)" if not plan.abi else f"a virtual {plan.abi} device, over real adb"
    remark(f"demo: {MODEL} on {where}")
    if not plan.ready:
        remark("the first run builds ncnn and the harness: about 4 minutes on 2 cores; the next ones take seconds")
    try:
        with terminal_progress() as progress:
            report = _run(plan, progress)
    except MobilekitError as error:
        remark(f"error: {error.message}\nhint: {error.hint}")
        return error.exit_code
    except KeyboardInterrupt:
        remark("interrupted")
        return 130
    out_console().print(render(report))
    if arguments.picture:
        _draw(report, arguments.picture)
    remark(f"done in {time.monotonic() - started:.0f} s. Next:")
    remark(f"  .venv/bin/mobilekit run {OUT}/bundle --input {OUT}/pictures/{PICTURE}")
    remark("  .venv/bin/mobilekit export YOUR.onnx -o out/yours")
    remark("  .venv/bin/mobilekit validate out/yours --device    # with a phone plugged in")
    return report.verdict.exit_code


def _draw(report: ValidationReport, path: Path) -> None:
    from rich.console import Console

    recorder = Console(record=True, width=96, file=io.StringIO())
    recorder.print(render(report))
    picture = recorder.export_svg(title="make demo", unique_id="demo")
    # rich names web fonts there; a reader's own monospace font does.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL), encoding="utf-8")


def _run(plan: Plan, progress: Progress) -> ValidationReport:
    from mobilekit.device import virtual
    from mobilekit.device.harness.locate import find_harness
    from mobilekit.pipeline.export import export_model
    from mobilekit.pipeline.validate import ValidateOptions, validate_bundle

    pictures = OUT / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(data_dir("model_zoo") / "demo" / PICTURE, pictures / PICTURE)
    export_model(MODEL, OUT / "bundle", progress=progress)
    running = {device.name for device in virtual.list_()}
    serial = plan.device
    if plan.abi:
        find_harness(plan.abi, progress)
        serial = virtual.ensure(plan.abi, progress=progress).serial
    try:
        return validate_bundle(
            OUT / "bundle", serial, ValidateOptions(inputs=pictures, threads=1, iterations=3), progress
        )
    finally:
        for device in virtual.list_():
            if device.name not in running:
                virtual.stop(device.name)


if __name__ == "__main__":
    sys.exit(main())
