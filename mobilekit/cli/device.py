"""``mobilekit device clean`` and ``mobilekit device virtual``"""

from __future__ import annotations

from typing import Annotated

import typer

from mobilekit.cli._device_virtual import virtual

__all__ = ["register"]

device = typer.Typer(
    name="device", no_args_is_help=True, rich_markup_mode=None, help="Look after devices: virtual ones, and clean up."
)


device.add_typer(virtual)


@device.command("clean")
def _clean(
    serial: Annotated[
        str | None, typer.Option("--device", help="A serial of `mobilekit devices`. Default: the one connected.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove everything that mobilekit put on a device.

    \b
    mobilekit device clean
    mobilekit device clean --device 127.0.0.1:5600
    """
    from mobilekit.cli._common import print_json
    from mobilekit.device.adb import select
    from mobilekit.device.store import clean

    chosen = select(serial)
    removed = clean(chosen)
    if json:
        print_json({"serial": chosen.serial, "removed_bytes": removed})
    else:
        typer.echo(f"{chosen.serial}: removed {removed / 1e6:.1f} MB")


def register(app: typer.Typer) -> None:
    app.add_typer(device)
