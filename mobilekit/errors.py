"""Every error that mobilekit raises on purpose, and the exit code each one means.

::

    MobilekitError                        1
     ├── UsageError                       2   an option, a name or a value that does not fit
     ├── ModelError                       2   a model file that cannot be read
     ├── BundleError                      2   a bundle that is damaged, unsafe or too new
     ├── UnsupportedModelError            5   a model the target cannot take; lists every finding
     ├── VerificationError                1   the converted model computes something else
     ├── SetupError                       4   this machine lacks something
     │    ├── MissingToolError            4     a program (cmake, adb, qemu)
     │    ├── MissingExtraError           4     a Python package of an optional extra
     │    ├── StorageError                4     no room, or no right to write
     │    └── BuildError                  4     the harness did not compile
     ├── FetchError                       4   a download failed or is not what was promised
     │    └── ChecksumError               4     the bytes differ from the recorded sha256
     ├── ChildError                       4   native code in a child process went wrong
     │    ├── ChildCrashError             4     ended by a signal
     │    └── ChildTimeoutError           4     ran past its time limit
     └── DeviceError                      4   anything a device did
          ├── NoDeviceError               4     none connected, or not the one named
          ├── AmbiguousDeviceError        4     several connected and none named
          ├── DeviceLostError             4     it went away in the middle
          ├── DeviceStorageError          4     no room left on the device
          ├── ShellError                  4     a command there failed; carries its fields
          │    ├── AdbError               4     over adb
          │    └── SshError               4     over ssh
          └── HarnessError                4     the harness on the device
               ├── HarnessCrashError      4       it died of a signal
               ├── HarnessTimeoutError    4       it stopped answering
               └── ProtocolError          4       it said something that is no valid frame

A message says *what* happened and *where*; ``hint`` says how to mend it. The command line prints both and
leaves with ``exit_code``; nothing else in the package chooses exit codes. A user's Ctrl-C is 130.
"""

from __future__ import annotations

import signal as _signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "REPORT_IT",
    "AdbError",
    "AmbiguousDeviceError",
    "BuildError",
    "BundleError",
    "ChecksumError",
    "ChildCrashError",
    "ChildError",
    "ChildTimeoutError",
    "DeviceError",
    "DeviceLostError",
    "DeviceStorageError",
    "FetchError",
    "Finding",
    "HarnessCrashError",
    "HarnessError",
    "HarnessTimeoutError",
    "MissingExtraError",
    "MissingToolError",
    "MobilekitError",
    "ModelError",
    "NoDeviceError",
    "ProtocolError",
    "SetupError",
    "ShellError",
    "SshError",
    "StorageError",
    "UnsupportedModelError",
    "UsageError",
    "VerificationError",
    "signal_name",
]

REPORT_IT = "this is a bug in mobilekit: please report it with the model"
"""The hint where we, and not the user, are at fault."""


def signal_name(number: int) -> str:
    """``11`` -> ``"SIGSEGV"``; a number the platform does not know -> ``"signal 77"``."""
    try:
        return _signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class MobilekitError(Exception):
    """Base of all; ``str(error)`` is the message, ``hint`` the remedy (may be empty)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MobilekitError):
    exit_code = 2


class ModelError(MobilekitError):
    exit_code = 2


class BundleError(MobilekitError):
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a target cannot take.

    ``node`` is the ONNX node's name, or the name of its first output where it has none; ``op`` its operator type
    (with the domain unless it is the default one); ``reason`` a sentence; ``remedy`` what the user can do.
    """

    node: str
    op: str
    reason: str
    remedy: str


class UnsupportedModelError(MobilekitError):
    exit_code = 5

    def __init__(self, message: str, *, findings: Sequence[Finding], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.findings = tuple(findings)


class VerificationError(MobilekitError):
    exit_code = 1


class SetupError(MobilekitError):
    exit_code = 4


class MissingToolError(SetupError):
    pass


class MissingExtraError(SetupError):
    def __init__(self, module: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the Python package {module!r}, which is not installed",
            hint=f"pip install 'mobilekit[{extra}]'",
        )


class StorageError(SetupError):
    pass


class BuildError(SetupError):
    pass


class FetchError(MobilekitError):
    exit_code = 4


class ChecksumError(FetchError):
    pass


class ChildError(MobilekitError):
    exit_code = 4


class ChildCrashError(ChildError):
    """Native code in a child process was ended by ``signal`` (a number)."""

    def __init__(self, what: str, *, signal: int, hint: str = "") -> None:
        super().__init__(f"{what} was ended by {signal_name(signal)}", hint=hint)
        self.signal = signal


class ChildTimeoutError(ChildError):
    def __init__(self, what: str, *, limit_s: float, hint: str = "") -> None:
        super().__init__(f"{what} did not finish within {limit_s:g} s and was ended", hint=hint)
        self.limit_s = limit_s


class DeviceError(MobilekitError):
    exit_code = 4


class NoDeviceError(DeviceError):
    pass


class AmbiguousDeviceError(DeviceError):
    pass


class DeviceLostError(DeviceError):
    pass


class DeviceStorageError(DeviceError):
    pass


class ShellError(DeviceError):
    """A command on a device failed. Carries ``command``, ``returncode``, ``stdout``, ``stderr`` and ``serial``."""

    def __init__(
        self,
        command: str,
        *,
        serial: str,
        returncode: int | None = None,
        stdout: str = "",
        stderr: str = "",
        hint: str = "",
    ) -> None:
        said = (stderr or stdout).strip()
        code = "" if returncode is None else f" (exit code {returncode})"
        super().__init__(f"{serial}: `{command}` failed{code}{': ' + said if said else ''}", hint=hint)
        self.command = command
        self.serial = serial
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr


class AdbError(ShellError):
    pass


class SshError(ShellError):
    pass


class HarnessError(DeviceError):
    pass


class HarnessCrashError(HarnessError):
    def __init__(self, what: str, *, signal: int, hint: str = "") -> None:
        super().__init__(f"{what} was ended by {signal_name(signal)}", hint=hint)
        self.signal = signal


class HarnessTimeoutError(HarnessError):
    pass


class ProtocolError(HarnessError):
    pass
