"""Another machine that does the worker's jobs, over ssh: a Jetson, or a computer with a GPU."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mobilekit.device.ssh import SshMachine
from mobilekit.device.ssh_address import SshAddress
from mobilekit.device.ssh_room import FoundPython, RemoteStore, Room, find_pythons
from mobilekit.errors import ChildCrashError, ChildError, MobilekitError, ProtocolError, SetupError, UsageError
from mobilekit.paths import Scratch
from mobilekit.progress import SILENT, Progress
from mobilekit.targets.tensorrt.host import WORKER, Hello, parse_hello, read_result

__all__ = ["PYTHONS", "SshHost", "pack"]

PYTHONS = ("python3", "/usr/bin/python3")
"""What is tried there where the user names none; JetPack's TensorRT belongs to the system's own."""

_OLDEST = (3, 8)
_HELLO_S = 300.0
_RESULT = "result.json"
_MADE = {"check": "", "build": r"model\.plan", "inspect": "", "run": r"output\d{1,9}_\d{1,9}\.npy"}
"""The files that a job's verb makes, beside its result."""
_RESULT_BYTES = 64 << 20
"""The log of a plan of a thousand layers has one."""


def pack(path: Path) -> Path:
    """The worker as one file, an archive that Python runs: the same bytes whenever the worker is the same."""
    with zipfile.ZipFile(path, "w") as archive:  # not compressed: a Python there may be without zlib
        for file in sorted(WORKER.rglob("*.py")):
            entry = zipfile.ZipInfo(file.relative_to(WORKER).as_posix())  # of 1980, whatever the file's date
            archive.writestr(entry, file.read_bytes())
    return path


class SshHost:
    """Implements :class:`~mobilekit.targets.tensorrt.host.WorkerHost`; ``with`` may be nested.

    ``pythons`` are tried in order: names on PATH there, absolute paths or such below ``~/``; the first that has numpy
    and TensorRT is taken. Files are kept below ``~/.cache/mobilekit/tensorrt``, ``quota_bytes`` at most. Entering
    raises any :class:`~mobilekit.errors.DeviceError`, and :class:`SetupError` for what is missing there.
    """

    def __init__(
        self,
        address: SshAddress,
        *,
        pythons: Sequence[str] = (),
        quota_bytes: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        for python in pythons:
            if not python or python.startswith("-") or not python.isprintable():
                raise UsageError(f"{python!r} is no program", hint="--remote-python NAME, /PATH or ~/PATH")
        self._machine = SshMachine(address, progress=progress)
        self._pythons = tuple(pythons)
        self._quota_bytes = quota_bytes
        self._progress = progress
        self._stack = ExitStack()
        self._depth = 0
        self._jobs = 0

    @property
    def name(self) -> str:
        return self._machine.serial

    def __enter__(self) -> SshHost:
        if self._depth == 0:
            with ExitStack() as stack:
                self._begin(stack)
                self._stack = stack.pop_all()
        self._depth += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._stack.close()

    def hello(self) -> Hello:
        with self:
            return self._hello

    def _begin(self, stack: ExitStack) -> None:
        stack.enter_context(self._machine)
        if not self._machine.system.startswith("Linux"):
            raise SetupError(f"{self.name} runs {self._machine.system!r}", hint="Linux is needed there")
        found = find_pythons(self._machine, self._pythons or PYTHONS)
        usable = [python for python in found if python.version >= _OLDEST]
        if not usable:
            raise self._no_python(found)
        self._store = RemoteStore(self._machine, "tensorrt", self._quota_bytes)
        self._progress.step(f"looking for TensorRT on {self.name}")
        with Scratch("worker") as folder:
            packed = pack(folder / "worker.pyz")
            self._worker = self._store.ensure([packed])[packed]
        self._room = stack.enter_context(Room(self._machine, self._store, usable[0].command, heard=self._heard))
        self._python, self._hello = self._choose(usable)

    def _no_python(self, found: Sequence[FoundPython]) -> SetupError:
        old = [f"{python.command} is {_text(python.version)}" for python in found if python.version]
        if old:
            return SetupError(
                f"{self.name} has no Python 3.8 or newer: {', '.join(old)}", hint="name another with --remote-python"
            )
        return SetupError(
            f"{self.name} has no Python: tried {', '.join(python.command for python in found)}",
            hint="install python3 there, or name it with --remote-python",
        )

    def _choose(self, usable: Sequence[FoundPython]) -> tuple[str, Hello]:
        """The first Python that has all; else what the first one lacks is said."""
        problems: list[SetupError] = []
        for python in usable:
            who = f"{python.command} (Python {_text(python.version)}) on {self.name}"
            # JSON may be framed by what libraries print when they are loaded.
            try:
                said = self._room.run([python.command, self._worker, "--hello"], what="looking", timeout_s=_HELLO_S)
            except ChildCrashError as error:
                problems.append(SetupError(f"TensorRT cannot be loaded by {who}: {error.message}", hint=error.hint))
                continue
            except ChildError as error:
                problems.append(_lacking(who, python.command, error))
                continue
            hello = parse_hello((said.strip().splitlines() or [""])[-1], self.name)
            if hello.flavours:
                return python.command, hello
            problems.append(_without_tensorrt(who, python.command, hello))
        raise problems[0]

    def _heard(self, line: str) -> bool:
        """Progress; what native libraries say is kept for the message of a failure."""
        try:
            self._progress.step(str(json.loads(line)["step"]))
        except (ValueError, KeyError, TypeError):
            return False
        return True

    def perform(self, folder: Path, *, what: str, timeout_s: float, progress: Progress = SILENT) -> dict[str, Any]:
        """As :class:`~mobilekit.targets.tensorrt.host.WorkerHost` says; a fresh worker for all but a run."""
        self._progress = progress
        self._jobs += 1
        verb = json.loads((folder / "job.json").read_text("utf-8"))["verb"]
        local = {path.name: path for path in folder.iterdir() if path.is_file() and path.name != _RESULT}
        there = self._store.ensure(list(local.values()), progress)
        made = self._room.job(
            f"job{self._jobs}",
            {name: there[path] for name, path in local.items()},
            [self._python, self._worker, "--serve"],
            fresh=verb != "run",
            what=what,
            timeout_s=timeout_s,
        )
        self._distrust(made, verb, folder)
        for name, size in sorted(made.items(), key=lambda item: item[0] == _RESULT):
            self._room.get(f"job{self._jobs}/{name}", folder / name, size_bytes=size, progress=progress)
        try:
            return read_result(folder, what)
        except MobilekitError as error:
            raise type(error)(f"{self.name}: {error.message}", hint=error.hint) from error

    def _distrust(self, made: Mapping[str, int], verb: str, folder: Path) -> None:
        """Whoever answers there may be another, or broken into: only what was asked for is fetched, and no more than
        the disk here holds."""
        hint = "another program answers there, or the disk here is too small: look at TMPDIR"
        free = shutil.disk_usage(folder).free
        for name, size in made.items():
            # What we sent are links to the user's own files: nothing from there may be written through them.
            if not re.fullmatch(f"result\\.json|{_MADE[verb]}", name) or (folder / name).is_symlink():
                raise ProtocolError(f"{self.name} names a file {name[:200]!r}", hint=hint)
            if size < 0 or size > (_RESULT_BYTES if name == _RESULT else free):
                raise ProtocolError(f"{self.name} offers {name} of {size} bytes", hint=hint)
        if sum(made.values()) > free:
            raise ProtocolError(f"{self.name} offers {sum(made.values())} bytes, and {free} are free here", hint=hint)


def _text(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _lacking(who: str, python: str, error: ChildError) -> SetupError:
    if "No module named 'numpy'" in error.hint:
        return SetupError(f"{who} has no numpy", hint=f"there: {python} -m pip install numpy; or --remote-python")
    return SetupError(f"{who} does not run mobilekit's worker: {error.message}", hint=error.hint)


def _without_tensorrt(who: str, python: str, hello: Hello) -> SetupError:
    if hello.broken:
        reason = "; ".join(hello.broken.values())
        return SetupError(f"{who} cannot load its TensorRT: {reason}", hint="install it again there")
    if hello.machine == "aarch64":
        hint = "a Jetson's comes with JetPack (apt install nvidia-jetpack) for /usr/bin/python3; or --remote-python"
    else:
        hint = f"there: {python} -m pip install tensorrt-rtx; or name another with --remote-python"
    return SetupError(f"{who} has no TensorRT", hint=hint)
