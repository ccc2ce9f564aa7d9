"""Files and commands on another machine that end with us: the client of :mod:`mobilekit.device.ssh_guard`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mobilekit.bundle import sha256_of
from mobilekit.device import ssh_guard
from mobilekit.device.ssh import SshMachine, storage_error
from mobilekit.device.ssh_session import LOST, Session
from mobilekit.device.store import DEFAULT_QUOTA_BYTES, Store
from mobilekit.errors import (
    ChildCrashError,
    ChildError,
    ChildTimeoutError,
    DeviceStorageError,
    ProtocolError,
    SshError,
)
from mobilekit.progress import SILENT, Progress

__all__ = ["FoundPython", "RemoteStore", "Room", "find_pythons"]

_ANSWER_S = 60.0
_ERRORS_S = 10.0
_HASHES = """
mkdir -p "$1" && cd "$1" || exit 1
shift
for name; do
    [ -f "$name" ] || continue
    sum=$(sha256sum <"$name") && [ "${sum%% *}" = "$name" ] || rm -f -- "$name"
done
"""
_PYTHONS = """
for python; do
    case $python in "~/"*) python=$HOME/${python#"~/"} ;; esac
    version=$("$python" -c 'import sys; print(*sys.version_info[:3], sep=".")' 2>/dev/null) || version=
    case $version in *[!0-9.]*) version= ;; esac  # one that prints more than it is asked for cannot be talked with
    printf '%s\\n' "$version" "$python"
done
"""


@dataclass(frozen=True, slots=True)
class FoundPython:
    """``version`` (3, 10, 12); ``()`` where ``command`` cannot be run."""

    command: str
    version: tuple[int, ...]


def find_pythons(machine: SshMachine, candidates: Sequence[str]) -> tuple[FoundPython, ...]:
    """Each of ``candidates`` (a name on PATH, an absolute path, or one below ``~/``) and what it says it is."""
    lines = machine.script(_PYTHONS, *candidates).splitlines()
    found = []
    for version, command in zip(lines[::2], lines[1::2], strict=True):
        numbers = tuple(int(part) for part in version.split(".")) if version.replace(".", "").isdecimal() else ()
        found.append(FoundPython(command, numbers))
    return tuple(found)


class RemoteStore:
    """Files on the machine by content, below ``~/.cache/mobilekit/NAME``."""

    def __init__(self, machine: SshMachine, name: str, quota_bytes: int | None = None) -> None:
        self.folder = f"{machine.home}/.cache/mobilekit/{name}"
        self._machine = machine
        self._store = Store(machine, folder=self.folder, quota_bytes=quota_bytes or DEFAULT_QUOTA_BYTES)
        self._known: dict[tuple[Path, int, int], str] = {}

    def ensure(self, files: Sequence[Path], progress: Progress = SILENT) -> dict[Path, str]:
        """Make sure that the machine holds ``files``; their paths there. What is there already is verified there,
        once for each connection."""
        states = {path: (path.resolve(), path.stat().st_size, path.stat().st_mtime_ns) for path in files}
        hashes = {path: sha256_of(path) for path in files if states[path] not in self._known}
        if hashes:
            self._machine.script(_HASHES, self.folder, *hashes.values(), timeout_s=600)
            there = self._store.ensure({sha: path for path, sha in hashes.items()}, progress=progress)
            self._known |= {states[path]: there[sha] for path, sha in hashes.items()}
        return {path: self._known[state] for path, state in states.items()}


class Room:
    """A folder on the machine, and programs that work in it; they last as long as the ``with`` block.

    ``heard`` is given each line that the programs print as errors; those for which it is true are not kept.
    """

    def __init__(
        self, machine: SshMachine, store: RemoteStore, python: str, *, heard: Callable[[str], bool] | None = None
    ) -> None:
        self._machine, self._store, self._python, self._heard = machine, store, python, heard
        self._session: Session | None = None
        self._said, self._change = 0, threading.Condition()
        self.folder = ""

    def __enter__(self) -> Room:
        script = Path(ssh_guard.__file__)
        there = self._store.ensure([script])[script]
        self._session = self._machine.open([self._python, "-I", there, self._store.folder], heard=self._hear)
        try:
            self.folder = str(self._answer(_ANSWER_S)["room"])
        except BaseException:
            self._session.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            # The guard removes the room when its input ends.
            self._session.close(5.0)

    def run(self, argv: Sequence[str], *, what: str, timeout_s: float = 60.0) -> str:
        """Run a command to its end; what it prints. Raises as :meth:`job` does, also for a non-zero exit code."""
        answer = self._ask({"run": list(argv), "timeout_s": timeout_s}, timeout_s)
        if answer["returncode"] != 0:
            raise self._ended(answer, what, timeout_s)
        return str(answer["stdout"])

    def job(
        self, name: str, files: Mapping[str, str], server: Sequence[str], *, fresh: bool, what: str, timeout_s: float
    ) -> dict[str, int]:
        """Give ``server`` the folder ``name`` with ``files`` (name -> path on the machine); the size in bytes of each
        file that it made there, which is kept until the next job.

        The same server goes on from one job to the next, unless a ``fresh`` one is asked for. Raises
        :class:`ChildCrashError`, :class:`ChildTimeoutError` or :class:`ChildError` where it ends, and what the
        connection does.
        """
        request = {"job": name, "files": dict(files), "server": list(server), "fresh": fresh, "timeout_s": timeout_s}
        answer = self._ask(request, timeout_s)
        if "returncode" in answer:
            raise self._ended(answer, what, timeout_s)
        try:
            return {str(file): int(size) for file, size in answer["files"].items()}
        except (KeyError, AttributeError, TypeError, ValueError, OverflowError) as error:
            raise ProtocolError(
                f"{self._machine.serial} answers nothing that makes sense", hint="another program answers there"
            ) from error

    def get(self, name: str, local: Path, *, size_bytes: int, progress: Progress = SILENT) -> None:
        """Copy the room's file ``name`` to ``local``."""
        self._machine.pull(f"{self.folder}/{name}", local, size_bytes=size_bytes, progress=progress)

    def _hear(self, line: str) -> bool:
        if line.startswith(ssh_guard.SAID):
            with suppress(ValueError), self._change:
                self._said = int(line[len(ssh_guard.SAID) :])
                self._change.notify_all()
            return True
        return self._heard is not None and self._heard(line)

    def _ended(self, answer: Mapping[str, Any], what: str, timeout_s: float) -> ChildError | DeviceStorageError:
        code, said_until = answer["returncode"], answer.get("said")
        what = f"{what} on {self._machine.serial}"
        if code is None:
            return ChildTimeoutError(what, limit_s=timeout_s, hint="raise the limit with --timeout")
        assert self._session is not None
        if isinstance(
            said_until, int
        ):  # errors come on a stream of their own, the last of them perhaps after the answer
            with self._change:
                self._change.wait_for(lambda: self._said >= said_until, _ERRORS_S)
        said = "\n".join(self._session.stderr.splitlines()[-3:])
        if full := storage_error(self._machine.serial, said):
            return full
        if code < 0:
            return ChildCrashError(what, signal=-code, hint=said)
        return ChildError(f"{what} ended with exit code {code} and no answer", hint=said)

    def _ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        assert self._session is not None
        self._session.write(json.dumps(request).encode() + b"\n")
        answer = self._answer(timeout_s + _ANSWER_S)
        if "error" in answer:
            said = str(answer["error"])
            raise storage_error(self._machine.serial, said) or SshError(
                "work there", serial=self._machine.serial, stderr=said, hint="try again"
            )
        return answer

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        assert self._session is not None
        try:
            if line := self._session.readline(time.monotonic() + timeout_s):
                answer = json.loads(line)
                if isinstance(answer, dict):
                    return answer
            code = self._session.wait(time.monotonic() + 5.0)
        except (TimeoutError, ValueError):
            raise SshError(
                "wait for an answer",
                serial=self._machine.serial,
                stderr=self._session.stderr[-500:] or "none came",
                hint=f"see whether {self._python} starts there",
            ) from None
        if code == LOST:
            self._machine.check(self._session)
        said = self._session.stderr
        raise storage_error(self._machine.serial, said) or SshError(
            "run Python", serial=self._machine.serial, returncode=code, stderr=said[-500:]
        )
