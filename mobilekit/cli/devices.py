"""``mobilekit devices``"""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["register"]


def devices(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List what --device can name: devices that adb sees, virtual ones, this machine, its GPUs.

    \b
    mobilekit devices
    mobilekit devices --json
    """
    from dataclasses import asdict

    from mobilekit.cli._common import out_console, print_json, terminal_progress
    from mobilekit.pipeline.devices import known_places

    with terminal_progress() as progress:
        found = known_places(progress)
    if json:
        print_json([asdict(device) for device in found])
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from mobilekit.report.console import plain

    table = Table(box=SIMPLE_HEAD, padding=0)
    for name in ("--device", "state", "kind", "ABI", "Android", "CPU", "model"):
        table.add_column(name, overflow="fold", no_wrap=name == "--device")
    for device in found:
        values = (
            *(device.selector, device.state, device.kind, device.abi),
            *(device.android, device.cpu_profile, device.model),
        )
        table.add_row(*(Text(plain(value)) for value in values))
    console = out_console()
    console.print(table)
    for device in found:
        if device.hint:
            console.print(Text(f"{plain(device.selector)}: {plain(device.hint, 300)}"))


def register(app: typer.Typer) -> None:
    app.command("devices")(devices)
