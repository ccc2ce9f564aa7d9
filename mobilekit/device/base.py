"""What a device is: somewhere to put files and run programs. adb phones and the virtual device both are one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mobilekit.progress import SILENT, Progress

__all__ = ["Device", "DeviceInfo", "Host", "RemoteProcess", "ShellResult", "remedy"]


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What ``getprop`` says. ``abis`` best first (``"arm64-v8a"``); ``virtual`` from ``ro.product.*`` of our daemon.

    ``serial`` is adb's name for it, over the network an address; ``hardware_serial`` stays the device's own (empty
    where it says none, and for a virtual one).
    """

    serial: str
    model: str
    manufacturer: str
    android: str
    abis: tuple[str, ...]
    virtual: bool
    cpu_profile: str = ""
    hardware_serial: str = ""


@dataclass(frozen=True, slots=True)
class ShellResult:
    stdout: bytes
    stderr: bytes
    returncode: int


def remedy(said: str, code: int | None = None) -> str:
    """What helps where a device said ``said`` (or its shell left with ``code``) when it was to write or run a file."""
    said = said.lower()
    if "read-only file system" in said:
        return "its storage is mounted read-only: restart the device; should that not help, its storage is failing"
    if code in (126, 127):
        return (
            "its storage may be mounted noexec (`mount` there says so), or the file is another user's: restart the"
            " device, then `mobilekit device clean`"
        )
    if "permission denied" in said or "not permitted" in said:
        return (
            "another user of the device (a root shell?) made what lies there: `ls -lR /data/local/tmp/mobilekit` on it"
            " shows whose it is; remove it as that user, or restart the device where /data/local/tmp itself is refused"
        )
    return ""


class RemoteProcess(Protocol):
    """A program left running on the device; closing it ends it."""

    def poll(self) -> int | None:
        """Exit code once it has ended (128 + n after signal n, as the shell says), else ``None``."""
        ...

    def stderr_tail(self) -> str: ...

    def readline(self, timeout_s: float) -> str:
        """Next line of its stdout, without the newline; raises ``HarnessTimeoutError``."""
        ...

    def close(self) -> None: ...


class Host(Protocol):
    """A machine with a POSIX shell that takes files: a device, or a computer over ssh. ``serial`` names it."""

    serial: str

    def shell(self, argv: Sequence[str], *, timeout_s: float = 60.0, stdin: bytes = b"") -> ShellResult:
        """Run a command; every argument is quoted for the device's shell. A non-zero exit is not an error."""
        ...

    def push(self, local: Path, remote: str, *, mode: int = 0o644, progress: Progress = SILENT) -> None: ...


class Device(Host, Protocol):
    def info(self) -> DeviceInfo: ...

    def spawn(self, argv: Sequence[str]) -> RemoteProcess: ...

    def pull(self, remote: str, local: Path) -> None: ...

    def forward_abstract(self, name: str) -> int:
        """``adb forward tcp:0 localabstract:NAME``; the local port."""
        ...

    def remove_forward(self, port: int) -> None: ...
