"""Arguments and options that several commands take: the same name, meaning and help in each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mobilekit.cli._plain import PlainCommand

__all__ = [
    "Arithmetic",
    "AsJson",
    "BundleFolder",
    "Device",
    "DeviceMayStandAlone",
    "FixedInputs",
    "InputFolder",
    "InputShapes",
    "JsonFile",
    "PlanHost",
    "Plugins",
    "RelativeL2",
    "RemotePythons",
    "RunTimeout",
    "Samples",
    "Seed",
    "Threads",
    "Tuned",
    "Wait",
    "seconds",
]


def seconds(name: str, *, help: str, least: float = 0) -> Any:
    """An option of seconds, also written ``90s``, ``10m`` or ``1h``."""

    def parse(value: str | float) -> float:
        if isinstance(value, int | float):  # the default
            return value
        from mobilekit.errors import UsageError
        from mobilekit.validate.endurance import parse_duration

        try:
            found = 0.0 if value.strip() == "0" else parse_duration(value)
        except UsageError as error:
            raise UsageError(f"{name}: {error.message}", hint=error.hint) from None
        if found < least:
            raise UsageError(f"{name} {value} is too short", hint=f"{least:g}s at least")
        return found

    return typer.Option(name, parser=parse, metavar="SECONDS|90s|10m", help=help)


BundleFolder = Annotated[Path, typer.Argument(help="A folder that mobilekit export wrote.")]

# Of a model that is converted.
InputShapes = Annotated[
    list[str] | None,
    typer.Option("--input-shape", help="NAME:1x3x224x224; the shape is what follows the last colon. Repeatable."),
]
FixedInputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", "-i", metavar="NAME=VALUE", help="Fix an input: NAME=16000, NAME=[1,2], NAME=value.npy. Repeatable."
    ),
]

# Where a bundle runs. Commands that take Device are of the class DeviceMayStandAlone.
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="A serial of `mobilekit devices`, virtual, virtual:cortex-a76, or local. Default: the one connected.",
    ),
]
PlanHost = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="ssh://USER@HOST[:PORT]",
        help="TensorRT builds or runs the plan on that machine: a Jetson, or a computer with a GPU.",
    ),
]
RemotePythons = Annotated[
    list[str] | None,
    typer.Option("--remote-python", help="Python there, with numpy and TensorRT: a name, /PATH or ~/PATH. Repeatable."),
]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE:CLASS",
        help="Creator of a plugin that the plan needs, for full TensorRT. Its code runs. Repeatable.",
    ),
]

# What it runs on, and how.
InputFolder = Annotated[
    Path | None, typer.Option("--inputs", help="A folder of pictures or .npy files, instead of seeded inputs.")
]
Samples = Annotated[int, typer.Option("--samples", min=1, help="How many seeded inputs.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the first; the next ones count on.")]
Threads = Annotated[int, typer.Option("--threads", min=0, max=256, help="0: as ncnn chooses; 1 on a virtual device.")]
Arithmetic = Annotated[
    str | None,
    typer.Option("--precision", help="fp32 or fp16 arithmetic. Default: what the bundle was exported for."),
]
Tuned = Annotated[
    bool, typer.Option("--tuned/--no-tuned", help="As `mobilekit tune` found fastest there, or as ncnn chooses.")
]
RelativeL2 = Annotated[float | None, typer.Option("--rtol", help="Largest relative L2 error of the outputs.")]
RunTimeout = Annotated[float, seconds("--timeout", least=1, help="How long one run may take.")]
Wait = Annotated[float, seconds("--wait", help="How long to wait for a device that another holds.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write the result as JSON; - prints it instead of the text.")
]


class DeviceMayStandAlone(PlainCommand):
    """``--device`` without a value means the one connected, as leaving it out does."""

    alone: tuple[str, ...] = ()
    """What is read instead of such a ``--device``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        read: list[str] = []
        for arg, after in zip(args, [*args[1:], "-"], strict=True):
            read += self.alone if arg == "--device" and after.startswith("-") else (arg,)
        return super().parse_args(ctx, read)


class DeviceAloneIsConnected(DeviceMayStandAlone):
    """The same where leaving ``--device`` out means another place."""

    alone = ("--device", "connected")
