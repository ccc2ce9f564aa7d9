"""From what the user wrote after ``--device`` to a device, and the list of what could be written there."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from mobilekit.device.adb import AdbDevice, ListedDevice, list_devices, select
from mobilekit.device.base import Device
from mobilekit.errors import AdbError, DeviceError, MissingToolError, NoDeviceError, UsageError
from mobilekit.progress import SILENT, Progress

__all__ = ["KnownDevice", "known_devices", "open_device"]

_VIRTUAL = "virtual"


def open_device(selector: str | None, progress: Progress = SILENT) -> Device:
    """``None``: the one connected; a serial; or a virtual device that runs, else a new one.

    A virtual one may be named with its ABI or its processor: ``"virtual"``, ``"virtual:x86_64"``,
    ``"virtual:cortex-a53"``. Raises :class:`NoDeviceError`, :class:`AmbiguousDeviceError`, :class:`UsageError` for an
    unknown processor, and :class:`SetupError` where this machine cannot run a virtual device.
    """
    if selector is None or (selector != _VIRTUAL and not selector.startswith(f"{_VIRTUAL}:")):
        return select(selector)
    from mobilekit.device.virtual import ABIS, CPU_PROFILES, ensure

    _, colon, which = selector.partition(":")
    if colon and which not in ABIS and which not in CPU_PROFILES:
        known = ", ".join([*ABIS, *CPU_PROFILES])
        raise UsageError(f"no virtual device is called {which!r}", hint=f"after 'virtual:' may stand {known}")
    progress.step("starting the virtual device")
    if which in ABIS:
        return select(ensure(abi=which, progress=progress).serial)
    return select(ensure(cpu=which or None, progress=progress).serial)


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """What ``--device`` could name. ``state`` is ``"device"`` where it can be used; else ``hint`` says what to do."""

    selector: str
    state: str
    kind: str
    model: str = ""
    abi: str = ""
    android: str = ""
    cpu_profile: str = ""
    hint: str = ""


def known_devices(progress: Progress = SILENT) -> tuple[KnownDevice, ...]:
    """Every device that adb lists (asked for its model, ABI and Android), virtual ones adb has lost, and ``local``.

    Where adb cannot be started, that is a note and the rest is listed. ``kind``: ``"usb"``, ``"tcp"``,
    ``"emulator"``, ``"virtual"``, ``"local"``.
    """
    from mobilekit.device.virtual import list_

    virtual = {device.serial: device for device in list_()}
    found: list[KnownDevice] = []
    try:
        for listed in list_devices():
            found.append(_describe(listed, virtual=listed.serial in virtual))
    except (MissingToolError, AdbError, NoDeviceError) as error:
        progress.note(f"adb: {error.message}" + (f" ({error.hint})" if error.hint else ""))
    listed_serials = {device.selector for device in found}
    for serial, lost in virtual.items():
        if serial not in listed_serials:
            hint = f"adb connect {serial}"
            found.append(KnownDevice(serial, "not connected", _VIRTUAL, lost.name, lost.abi, "", lost.cpu, hint))
    found.append(KnownDevice("local", "device", "local", "this machine, ncnn wheel", platform.machine()))
    return tuple(found)


def _describe(listed: ListedDevice, *, virtual: bool) -> KnownDevice:
    kind = _VIRTUAL if virtual else listed.transport
    if not listed.usable:
        return KnownDevice(listed.serial, listed.state, kind, listed.model, hint=listed.hint)
    try:
        info = AdbDevice(listed.serial).info()
    except DeviceError as error:
        return KnownDevice(listed.serial, "does not answer", kind, listed.model, hint=error.message)
    return KnownDevice(
        listed.serial,
        listed.state,
        _VIRTUAL if info.virtual else kind,
        info.model if info.model.startswith(info.manufacturer) else f"{info.manufacturer} {info.model}",
        info.abis[0] if info.abis else "",
        info.android,
        info.cpu_profile,
    )
