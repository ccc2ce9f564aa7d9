"""Arguments and options that several commands take: the same name, meaning and help in each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

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
]

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
RunTimeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds that one run may take.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write the result as JSON; - prints it instead of the text.")
]


class DeviceMayStandAlone(TyperCommand):
    """``--device`` without a value means the one connected, as leaving it out does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        following = [*args[1:], "-"]
        kept = [a for a, after in zip(args, following, strict=True) if a != "--device" or not after.startswith("-")]
        return super().parse_args(ctx, kept)
