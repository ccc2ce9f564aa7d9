"""Start, stop and list virtual devices. Each is a daemon of its own that outlives the command that started it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from mobilekit.child import physical_memory_bytes
from mobilekit.device.virtual import auth, machine
from mobilekit.device.virtual.layout import ABIS, CPU_PROFILES, Settings
from mobilekit.device.virtual.rootfs import ensure_root
from mobilekit.errors import AdbError, MissingToolError, MobilekitError, SetupError, UsageError
from mobilekit.paths import atomic_file, state_dir
from mobilekit.progress import SILENT, Progress

__all__ = ["MODES", "NOT_A_SANDBOX", "Probe", "VirtualDevice", "ensure", "list_", "probe", "start", "stop"]

MODES = ("auto", "userns", "proot")
# /data lies in memory.
_DEFAULT_STORAGE_BYTES = 2 * 1024**3
_DEFAULT_STORAGE_SHARE = 0.5
NOT_A_SANDBOX = (
    "proot mode is NOT A SANDBOX: programs on this device run with your rights and reach your files and your network"
)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_DAEMON = (sys.executable, "-P", "-m", "mobilekit.device.virtual.daemon")
_START_S = 90.0
_STOP_S = 8.0
# adb looks for emulators on 5555 to 5585 by itself, and a daemon there would show up twice.
_EMULATOR_PORTS = range(5554, 5587)


@dataclass(frozen=True, slots=True)
class VirtualDevice:
    """A running device. ``root``: the folder that holds its files in proot mode; a sandbox has none on the host.

    ``started_ticks`` (clock ticks since boot) tells ``pid`` from a later process of that number.
    """

    name: str
    serial: str
    abi: str
    cpu: str
    pid: int
    started_ticks: int
    mode: str
    root: Path
    storage_bytes: int

    @property
    def port(self) -> int:
        return int(self.serial.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class Probe:
    """What :func:`probe` found. ``mode`` is ``"userns"``, ``"proot"`` or empty; ``remedy`` names what helps."""

    mode: str
    summary: str
    remedy: str


def probe(abi: str = "arm64-v8a") -> Probe:
    """Make a sandbox and throw it away: which mode :func:`start` would get. Changes nothing."""
    try:
        qemu = "" if machine.is_native(abi) else machine.find_qemu(abi)
    except MobilekitError as error:
        return Probe("", error.message, error.hint)
    command = [*_DAEMON, "--probe", qemu]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=False, cwd="/")
        answer = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return Probe("", "the sandbox's trial did not end well", "run it again, and report it")
    if "failed" not in answer:
        return Probe("userns", f"sandboxed, {abi} {'under qemu' if qemu else 'natively'}", "")
    refused = machine.refusal(answer["failed"], answer["errno"])
    try:
        machine.find_proot()
    except MobilekitError as missing:
        return Probe("", refused.message, f"{refused.hint}\nor, without a sandbox: {missing.hint}")
    return Probe("proot", f"only without a sandbox (proot): {refused.message}", refused.hint)


def start(
    name: str | None = None,
    *,
    abi: str = "arm64-v8a",
    cpu: str | None = None,
    storage_bytes: int | None = None,
    mode: str = "auto",
    port: int = 0,
    connect: bool = True,
    keep: bool = False,
    progress: Progress = SILENT,
) -> VirtualDevice:
    """Start a device and connect adb to it.

    ``cpu`` is a name of :data:`CPU_PROFILES` (default ``cortex-a76``; ``host`` where the ABI is native).
    ``storage_bytes`` is the size of ``/data``, in memory (default: 2 GiB, at most half of this machine's memory).
    ``port`` 0 takes a free one. ``keep`` puts back the ``/data`` that ``stop(name, keep=True)`` kept.
    ``mode`` ``auto`` tries the sandbox, then proot (announced through ``progress.note``).
    Raises :class:`UsageError` for bad values or a name in use, :class:`SetupError` naming the remedy where this
    machine cannot do it.
    """
    if storage_bytes is None:
        storage_bytes = min(_DEFAULT_STORAGE_BYTES, int(physical_memory_bytes() * _DEFAULT_STORAGE_SHARE))
    cpu = _check(name, abi, cpu, storage_bytes, mode, port)
    runs: list[VirtualDevice] = []  # as soon as it does, so that an interruption does not lose it on its way here
    try:
        with _lock():
            running = {device.name for device in list_()}
            if name is None:
                name = next(free for n in range(1, 1000) if (free := f"{cpu}-{n}" if n > 1 else cpu) not in running)
            elif name in running:
                raise UsageError(
                    f"a virtual device {name!r} runs already", hint=f"mobilekit device virtual stop {name}"
                )
            _start(name, abi, cpu, storage_bytes, mode, port, progress, runs)
        (device,) = runs
        if connect or keep:
            connect_adb(device.serial)
        if keep and _kept(device.name).exists():
            _restore(device)
    except BaseException:
        for device in runs:
            if device in list_():
                stop(device.name)
        raise
    return device


def _check(name: str | None, abi: str, cpu: str | None, storage_bytes: int, mode: str, port: int) -> str:
    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a device", hint="use 1 to 32 of a-z, 0-9, '-' and '_'")
    if abi not in ABIS:
        raise UsageError(f"unknown ABI {abi!r}", hint=f"choose one of: {', '.join(ABIS)}")
    if mode not in MODES:
        raise UsageError(f"unknown mode {mode!r}", hint=f"choose one of: {', '.join(MODES)}")
    if storage_bytes < 1024 * 1024:
        raise UsageError(
            f"a device needs at least 1M of storage, not {storage_bytes} bytes", hint="write it like 64M or 2G"
        )
    if port and (port in _EMULATOR_PORTS or not 1024 <= port <= 65535):
        raise UsageError(f"port {port} cannot be used", hint="choose one from 1024 to 65535, outside 5554 to 5586")
    if machine.is_native(abi):
        if cpu not in (None, "host"):
            raise UsageError(f"{abi} runs natively on this machine, without CPU profiles", hint="leave --cpu out")
        return "host"
    cpu = cpu or "cortex-a76"
    if cpu not in CPU_PROFILES:
        raise UsageError(f"unknown CPU profile {cpu!r}", hint=f"choose one of: {', '.join(CPU_PROFILES)}")
    return cpu


def _start(
    name: str,
    abi: str,
    cpu: str,
    storage_bytes: int,
    mode: str,
    port: int,
    progress: Progress,
    runs: list[VirtualDevice],
) -> None:
    qemu = ""
    if not machine.is_native(abi):
        qemu = machine.find_qemu(abi)
        usable = machine.usable_cpus(qemu)
        if cpu not in usable:
            raise SetupError(
                f"{qemu} knows no {cpu}", hint=f"choose one of: {', '.join(usable)}; or install a newer qemu"
            )
    keys = auth.user_keys(machine.find_adb())
    archive = ensure_root(abi, progress)
    failure: SetupError | None = None
    for attempt in ("userns", "proot") if mode == "auto" else (mode,):
        progress.step(f"starting the virtual device {name} ({abi}, {cpu}, {attempt})")
        try:
            proot = machine.find_proot() if attempt == "proot" else ""
        except MissingToolError as error:
            if failure is None:
                raise
            raise SetupError(failure.message, hint=f"{failure.hint}\nor, without a sandbox: {error.hint}") from failure
        try:
            folder = state_dir("virtual", name)
            settings = Settings(
                name=name,
                abi=abi,
                cpu=cpu,
                mode=attempt,
                port=port,
                storage_bytes=storage_bytes,
                cpu_count=len(os.sched_getaffinity(0)),
                root_archive=str(archive),
                folder=str(folder),
                keys=keys,
                qemu=qemu,
                proot=proot,
            )
            _launch(settings, folder, runs)
        except BaseException as error:
            if not runs:
                shutil.rmtree(state_dir("virtual") / name, ignore_errors=True)
            if isinstance(error, SetupError) and mode == "auto" and attempt == "userns" and "port" not in error.message:
                failure = error
                progress.note(f"no sandbox: {error.message}\n{error.hint}")
                continue
            raise
        if attempt == "proot":
            progress.note(NOT_A_SANDBOX)
        return
    raise AssertionError("unreachable")


def _launch(settings: Settings, folder: Path, runs: list[VirtualDevice]) -> None:
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            _DAEMON,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(settings.to_json()).encode() + b"\n")
            process.stdin.flush()
        line = b""
        if select.select([process.stdout], [], [], _START_S)[0]:
            line = process.stdout.readline()
        try:
            answer = json.loads(line)
        except ValueError:
            raise SetupError("the virtual device did not start", hint="\n".join(_tail(folder))) from None
        if "failed" in answer:
            raise machine.refusal(answer["failed"], answer["errno"], extra=() if answer["errno"] else _tail(folder))
        device = VirtualDevice(
            name=settings.name,
            serial=f"127.0.0.1:{answer['port']}",
            abi=settings.abi,
            cpu=settings.cpu,
            pid=process.pid,
            started_ticks=_start_ticks(process.pid) or 0,
            mode=settings.mode,
            root=folder / "root",
            storage_bytes=settings.storage_bytes,
        )
        with atomic_file(folder / "device.json") as temporary:
            temporary.write_text(json.dumps(asdict(device), default=str, indent=1))
        runs.append(device)
        process.stdin.write(b"go\n")
        process.stdin.flush()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        # It outlives us; Popen must not warn about it.
        process.returncode = 0 if process.returncode is None else process.returncode


def _tail(folder: Path) -> list[str]:
    return (folder / "log.txt").read_text("utf-8", "replace").strip().splitlines()[-3:]


def list_() -> tuple[VirtualDevice, ...]:
    """The devices that run; what ended without `stop` is cleaned up on the way."""
    found = []
    for path in sorted(state_dir("virtual").glob("*/device.json")):
        device = _read(path)
        if device is not None and _start_ticks(device.pid) == device.started_ticks:
            found.append(device)
        elif device is not None:
            shutil.rmtree(path.parent, ignore_errors=True)
    return tuple(found)


def _read(path: Path) -> VirtualDevice | None:
    try:
        value = json.loads(path.read_text())
        return VirtualDevice(**{**value, "root": Path(value["root"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def stop(name: str, *, keep: bool = False) -> None:
    """Disconnect adb, end the device and everything in it, remove what it stored; ``keep`` saves its ``/data`` first.

    Raises :class:`UsageError` where no such device runs.
    """
    device = next((device for device in list_() if device.name == name), None)
    if device is None:
        known = ", ".join(device.name for device in list_()) or "none"
        raise UsageError(f"no virtual device {name!r} runs", hint=f"running: {known}")
    if keep:
        _save(device)
    with suppress(MobilekitError):
        disconnect_adb(device.serial)
    _end(device)
    shutil.rmtree(state_dir("virtual") / name, ignore_errors=True)


def _end(device: VirtualDevice) -> None:
    try:
        handle = os.pidfd_open(device.pid)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            # Asked anew under the handle: the number could have passed to another process.
            if _start_ticks(device.pid) != device.started_ticks:
                return
            signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], _STOP_S)[0]:
                break
        with suppress(ChildProcessError):
            os.waitpid(device.pid, 0)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def ensure(abi: str = "arm64-v8a", cpu: str | None = None, progress: Progress = SILENT) -> VirtualDevice:
    """A running device of this ABI and CPU profile (``None``: any), connected; started if there is none."""
    for device in list_():
        if device.abi == abi and cpu in (None, device.cpu):
            connect_adb(device.serial)
            return device
    return start(abi=abi, cpu=cpu, progress=progress)


@contextmanager
def _lock() -> Iterator[None]:
    """One start at a time, so that two do not take the same name."""
    with (state_dir("virtual") / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot (field 22 of /proc/PID/stat); None for none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def connect_adb(serial: str) -> None:
    from mobilekit.device import adb

    adb.connect(serial)


def disconnect_adb(serial: str) -> None:
    from mobilekit.device import adb

    adb.disconnect(serial)


def _kept(name: str) -> Path:
    return state_dir("virtual") / f"{name}.data.tar"


def _save(device: VirtualDevice) -> None:
    """/data as a tar, made on the device: what is in it is read by nobody but a device."""
    connect_adb(device.serial)
    with atomic_file(_kept(device.name)) as temporary, temporary.open("wb") as file:
        _adb(device, "cd /data && tar cf - local media", stdout=file)


def _restore(device: VirtualDevice) -> None:
    with _kept(device.name).open("rb") as file:
        _adb(device, "cd /data && tar xf -", stdin=file)


def _adb(
    device: VirtualDevice, script: str, *, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
) -> None:
    adb = machine.find_adb()
    command = [adb, "-s", device.serial, "shell", script]
    done = subprocess.run(
        command, stdin=stdin or subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=600
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace")
        raise AdbError(script, serial=device.serial, returncode=done.returncode, stderr=said)
