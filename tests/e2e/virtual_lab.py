"""A bench for virtual devices: a home, a key, an adb server and a state folder of its own, ended without a trace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import adbutils
import pytest

from mobilekit.device.virtual import kernel, probe
from tests.ports import free_port

NOBODY = 65534


def adb_programs() -> dict[str, str]:
    """Every adb of this machine: the system's, and the one in adbutils' wheel."""
    found = {}
    system = shutil.which("adb")
    if system:
        found["system"] = system
    bundled = Path(adbutils.__file__).parent / "binaries" / "adb"
    if bundled.exists():
        found["bundled"] = str(bundled)
    return found


def need_sandbox(abi: str = "arm64-v8a") -> None:
    found = probe(abi)
    if found.mode != "userns":
        pytest.skip(f"{found.summary}: {found.remedy}")


@dataclass
class Lab:
    """``run`` ends with the test where it hangs. ``user``: whose processes these are (root's tests only)."""

    folder: Path
    adb: str
    user: int | None = None
    python: str = sys.executable
    serial: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keep = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH", "TMPDIR") if name in os.environ}
        cache = os.environ.get("MOBILEKIT_CACHE") or os.environ.get("XDG_CACHE_HOME")
        self.env = keep | {
            "HOME": str(self.folder / "home"),
            "ADB": self.adb,
            "ANDROID_ADB_SERVER_PORT": str(free_port()),
            "MOBILEKIT_STATE": str(self.folder / "state"),
            "MOBILEKIT_CACHE": os.environ.get("MOBILEKIT_CACHE")
            or str((Path(cache) if cache else Path.home() / ".cache") / "mobilekit"),
            "COLUMNS": "200",
        }
        for name in ("home", "state"):
            (self.folder / name).mkdir(exist_ok=True)
        if self.user is not None:
            self.env["MOBILEKIT_CACHE"] = str(self.folder / "cache")
            self.env["PYTHONPATH"] = ":".join(filter(None, sys.path))
            self.env["PYTHONDONTWRITEBYTECODE"] = "1"
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, self.user, self.user)

    def run(
        self, command: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60, check: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            command, input=stdin, capture_output=True, timeout=timeout_s, env=self.env, check=False, **self._as_user()
        )
        assert not check or done.returncode == 0, (command, done)
        return done

    def _as_user(self) -> dict[str, Any]:
        return {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": [], "cwd": "/"}

    def mobilekit(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[bytes]:
        return self.run([self.python, "-m", "mobilekit", *arguments], timeout_s=timeout_s)

    def start(self, *arguments: str) -> dict[str, Any]:
        done = self.mobilekit("device", "virtual", "start", "--json", *arguments)
        assert done.returncode == 0, done.stderr.decode()
        device: dict[str, Any] = json.loads(done.stdout)
        self.serial = device["serial"]
        return device

    def devices(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self.mobilekit("device", "virtual", "list", "--json").stdout)
        return listed

    def names(self) -> set[str]:
        return {each["name"] for each in self.devices()}

    def adb_run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return self.run([self.adb, "-s", self.serial, *arguments], **options)

    def shell(self, command: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return self.adb_run("shell", command, **options)

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.adb, "-s", self.serial, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.env,
            **self._as_user(),
        )

    def state_of(self, serial: str) -> str:
        lines = self.run([self.adb, "devices"]).stdout.decode().splitlines()
        return next((line.split()[1] for line in lines if line.startswith(serial)), "")


@contextmanager
def laboratory(adb: str, **options: Any) -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="mk-lab-"))
    folder.chmod(0o755)
    lab = Lab(folder, adb, **options)
    try:
        yield lab
    finally:
        lab.mobilekit("device", "virtual", "stop", "--all")
        lab.run([adb, "kill-server"])
        shutil.rmtree(folder, ignore_errors=True)


def tree(pid: int) -> set[int]:
    """A process and all below it; nothing of one that ends meanwhile."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {pid}.union(*(tree(int(child)) for child in children))


@contextmanager
def orphans_come_here() -> Iterator[None]:
    """Processes whose parent ends become this one's children, so that `tree` finds them."""
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 0)


def alive(pids: set[int]) -> set[int]:
    left = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            left.add(pid)
    return left


def handles(pid: int, number: int) -> bool:
    """Whether the process has a handler of its own for the signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
