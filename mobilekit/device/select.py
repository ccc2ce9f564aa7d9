"""From what the user wrote after ``--device`` to a device."""

from __future__ import annotations

from mobilekit.device.adb import AdbDevice, select
from mobilekit.errors import UsageError
from mobilekit.progress import SILENT, Progress

__all__ = ["open_device"]

_VIRTUAL = "virtual"


def open_device(selector: str | None, progress: Progress = SILENT) -> AdbDevice:
    """``None``: the one connected; ``"virtual"`` or ``"virtual:cortex-a76"``: one that runs, else a new one; a serial.

    Raises :class:`NoDeviceError`, :class:`AmbiguousDeviceError`, and :class:`SetupError` where this machine cannot
    run a virtual device.
    """
    if selector is None or (selector != _VIRTUAL and not selector.startswith(f"{_VIRTUAL}:")):
        return select(selector)
    from mobilekit.device.virtual import ensure

    _, colon, cpu = selector.partition(":")
    if colon and not cpu:
        raise UsageError("no processor named after 'virtual:'", hint="--device virtual:cortex-a76")
    progress.step("starting the virtual device")
    return select(ensure(cpu=cpu or None, progress=progress).serial)
