"""``mobilekit device virtual start|stop|list``; ``cli/device.py`` mounts it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mobilekit.errors import UsageError

if TYPE_CHECKING:
    from mobilekit.device.virtual import VirtualDevice

__all__ = ["virtual"]

virtual = typer.Typer(
    name="virtual", no_args_is_help=True, rich_markup_mode=None, help="A device without a phone, for any Linux machine."
)

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def _size(text: str) -> int:
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in "KMG" and text else (text, "")
    if not number.isascii() or not number.isdigit():
        raise UsageError(f"{text!r} is no size", hint="--storage 64M, or 2G; a number alone is bytes")
    return int(number) * _UNITS[unit]


def _as_json(device: VirtualDevice) -> dict[str, object]:
    return {
        "name": device.name,
        "serial": device.serial,
        "abi": device.abi,
        "cpu": device.cpu,
        "mode": device.mode,
        "pid": device.pid,
        "storage_bytes": device.storage_bytes,
    }


@virtual.command("start")
def _start(
    abi: Annotated[str, typer.Option("--abi", help="arm64-v8a (under qemu) or x86_64.")] = "arm64-v8a",
    cpu: Annotated[
        str | None, typer.Option("--cpu", help="CPU profile of an arm64 device: cortex-a53, cortex-a76, max, ...")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What to call it; default: the CPU profile.")] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", help="Size of /data, kept in memory: 64M; default: 2G, or half the memory."),
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", help="userns (a sandbox), proot (not a sandbox) or auto: the first that works.")
    ] = "auto",
    port: Annotated[int, typer.Option("--port", help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Begin with the /data that `stop --keep` kept for NAME.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the device as JSON.")] = False,
) -> None:
    """Start a virtual device and connect adb to it.

    \b
    mobilekit device virtual start
    mobilekit device virtual start --cpu cortex-a53 --name old-phone
    mobilekit device virtual start --abi x86_64 --storage 64M
    """
    from mobilekit.cli._common import print_json, terminal_progress
    from mobilekit.device import virtual as library

    with terminal_progress() as progress:
        device = library.start(
            name,
            abi=abi,
            cpu=cpu,
            storage_bytes=None if storage is None else _size(storage),
            mode=mode,
            port=port,
            keep=keep,
            progress=progress,
        )
    if json:
        print_json(_as_json(device))
    else:
        typer.echo(f"{device.serial}  {device.name}  {device.abi}  {device.cpu}  {device.mode}")


@virtual.command("stop")
def _stop(
    name: Annotated[str | None, typer.Argument(help="Its name; may be left out where one device runs.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Stop every virtual device.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep its /data for the next `start --keep` of that name.")
    ] = False,
) -> None:
    """Stop a virtual device; nothing of it stays, unless --keep is given.

    \b
    mobilekit device virtual stop old-phone
    mobilekit device virtual stop --all
    """
    from mobilekit.device import virtual as library

    running = [device.name for device in library.list_()]
    if every and name is not None:
        raise UsageError("give a name or --all, not both")
    if name is None and not every:
        if len(running) != 1:
            raise UsageError(
                f"{len(running)} virtual devices run: {', '.join(running) or 'none'}", hint="name one, or use --all"
            )
        name = running[0]
    for each in running if every else [str(name)]:
        library.stop(each, keep=keep)
        typer.echo(f"stopped {each}")


@virtual.command("list")
def _list(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the virtual devices that run.

    \b
    mobilekit device virtual list --json
    """
    from mobilekit.cli._common import print_json
    from mobilekit.device import virtual as library

    devices = library.list_()
    if json:
        print_json([_as_json(device) for device in devices])
    elif not devices:
        typer.echo("no virtual device runs")
    for device in devices if not json else ():
        typer.echo(f"{device.serial}  {device.name}  {device.abi}  {device.cpu}  {device.mode}")
