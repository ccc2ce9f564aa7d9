"""``mobilekit harness``: the program that runs models on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_harness = typer.Typer(no_args_is_help=True, help="Build, pack and describe the program that runs models on a device.")
_ABIS = ("arm64-v8a", "x86_64")


def register(app: typer.Typer) -> None:
    app.add_typer(_harness, name="harness")


@_harness.command("build")
def _build(
    abi: Annotated[
        list[str] | None, typer.Option("--abi", help="arm64-v8a or x86_64; may be repeated. Default: both.")
    ] = None,
    toolchain: Annotated[str, typer.Option(help="auto, ndk, gcc or zig.")] = "auto",
    vulkan: Annotated[
        bool, typer.Option("--vulkan", help="For this machine's Vulkan driver: what `--vulkan` elsewhere runs.")
    ] = False,
    jobs: Annotated[int | None, typer.Option("-j", "--jobs", help="Compilers at a time. Default: all cores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was built as JSON.")] = False,
) -> None:
    """Build the harness, or take the cached build of the same sources.

    \b
    mobilekit harness build                       for arm64-v8a and x86_64
    mobilekit harness build --abi arm64-v8a -j 4
    mobilekit harness build --toolchain zig       with nothing but pip packages
    mobilekit harness build --vulkan              one more, for this machine's GPU or Mesa's lavapipe

    The best toolchain present is used: an Android NDK (ANDROID_NDK_HOME; adds Vulkan), gcc, or zig from PyPI. The
    first build of an ABI takes minutes, since it compiles ncnn. With arm64-v8a goes the plugin by which qemu counts a
    virtual device's instructions, where this machine has qemu-user and a C compiler.
    """
    from mobilekit.cli._common import print_json, remark, terminal_progress
    from mobilekit.device.harness.build import build_harness
    from mobilekit.device.harness.toolchains import host_abi
    from mobilekit.device.virtual.plugin import build_plugin
    from mobilekit.errors import SetupError

    built = []
    counter, lacking = None, ""
    with terminal_progress() as progress:
        here = host_abi()
        for name in abi or ((here or _ABIS[0],) if vulkan else _ABIS):
            built.append(build_harness(name, toolchain=toolchain, vulkan=vulkan, jobs=jobs, progress=progress))
            if name == "arm64-v8a" and not vulkan:
                try:
                    counter = build_plugin().path
                except SetupError as error:
                    lacking = f"the instruction counter is left out: {error.message} ({error.hint})"
    if as_json:
        rows = [{"abi": b.abi, "path": str(b.path), "toolchain": b.toolchain, "cached": b.cached} for b in built]
        print_json([row | {"counter": counter and str(counter)} if row["abi"] == "arm64-v8a" else row for row in rows])
    else:
        for b in built:
            size = b.path.stat().st_size / 1e6
            typer.echo(f"{b.abi:10}  {b.path}  ({size:.1f} MB, {b.toolchain}{', cached' if b.cached else ''})")
        if counter is not None:
            typer.echo(f"{'':10}  {counter}  (counts instructions under qemu)")
    if lacking:
        remark(lacking)


@_harness.command("wheel")
def _wheel(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the wheel.")] = Path("dist"),
    abi: Annotated[
        list[str] | None, typer.Option("--abi", help="arm64-v8a or x86_64; may be repeated. Default: both.")
    ] = None,
    toolchain: Annotated[str, typer.Option(help="auto, ndk, gcc or zig.")] = "auto",
) -> None:
    """Pack built harnesses, their licences and the virtual device's root into one wheel.

    \b
    mobilekit harness wheel -o dist
    pip install dist/mobilekit_harness-*.whl      on any machine, instead of building
    """
    from mobilekit.cli._common import terminal_progress
    from mobilekit.device.harness.wheel import make_wheel

    with terminal_progress() as progress:
        path = make_wheel(output, tuple(abi or _ABIS), toolchain=toolchain, progress=progress)
    typer.echo(str(path))


@_harness.command("layers")
def _layers(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the sources.")] = Path("mobilekit_layers"),
) -> None:
    """Copy the sources of mobilekit's own ncnn layers, for an app whose model needs them.

    \b
    mobilekit harness layers -o app/src/main/cpp/mobilekit_layers

    In the app's CMakeLists.txt, after find_package(ncnn): add_subdirectory(mobilekit_layers) and
    target_link_libraries(app mobilekit_layers ncnn); in its code: mobilekit_register_layers(net) before load_param.
    """
    from mobilekit.device.harness.layers import copy_layers

    files = copy_layers(output)
    typer.echo(f"{output}  ({len(files)} files; README.md says how they are used)")


@_harness.command("info")
def _info(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say which harnesses this machine has, where each comes from, and which own layers it knows.

    \b
    mobilekit harness info
    mobilekit harness info --json
    """
    from mobilekit.cli._common import print_json
    from mobilekit.device.harness.locate import own_layers, present_harnesses

    found = [harness for abi in _ABIS for harness in present_harnesses(abi)]
    if as_json:
        rows = [
            {
                "abi": h.abi,
                "path": str(h.path),
                "toolchain": h.toolchain,
                "static": h.static,
                "vulkan": h.vulkan,
                "own_layers": own_layers(h.path),
            }
            for h in found
        ]
        print_json(rows)
        return
    for h in found:
        kind = "static" if h.static else "for this machine" if "NDK" not in h.toolchain else "for Android's linker"
        typer.echo(f"{h.abi:10}  {h.path}  ({h.toolchain}, {kind}{', Vulkan' if h.vulkan else ''})")
        typer.echo(f"{'':10}  own layers: {' '.join(own_layers(h.path)) or 'none'}")
    if not found:
        typer.echo("no harness is built yet: mobilekit harness build")
