"""The device's init: makes the sandbox, then starts programs and opens sockets in it for the daemon outside.

It speaks JSON, one message a packet, over a ``SOCK_SEQPACKET`` pair; descriptors travel beside (``SCM_RIGHTS``).

::

    -> {"id": 1, "op": "spawn", "argv": [...], "env": {...}, "pty": false}  + stdin, stdout, stderr
    <- {"id": 1, "pid": 7}                                                  + the terminal's master, with pty
    -> {"id": 2, "op": "connect" | "listen", "kind": "tcp" | "abstract" | "file", "name": "..."}
    <- {"id": 2}                                                            + the socket
    -> {"id": 3, "op": "kill", "pid": 7, "signal": 1}
    <- {"id": 3}
    <- {"event": "exit", "pid": 7, "status": 0}      as shells say: 128 + n after signal n

An error is ``{"id": n, "errno": 2}``. When the daemon goes, so does this process, and with it all that runs here.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mobilekit.device.virtual import build_sandbox, kernel
from mobilekit.device.virtual.layout import Settings, cpuinfo

__all__ = ["MAX_MESSAGE", "Ingredients", "fork_zygote"]

MAX_MESSAGE = 192 * 1024
_MAX_FDS = 4
_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431


@dataclass(frozen=True, slots=True)
class Ingredients:
    """The host's files that a device is made from, read while they can still be reached."""

    archive: bytes
    qemu: bytes | None

    @classmethod
    def read(cls, settings: Settings) -> Ingredients:
        return cls(
            Path(settings.root_archive).read_bytes(),
            Path(settings.qemu).read_bytes() if settings.qemu else None,
        )


def fork_zygote(settings: Settings, ingredients: Ingredients) -> tuple[socket.socket, int]:
    """Fork the zygote from a process that has one thread yet; the daemon's end of its socket, and its process id.

    Its first message is ``{"ready": true}`` with the device's root as descriptor, or ``{"failed": step, "errno": n}``.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_MESSAGE)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return ours, pid
    status = 1
    try:
        ours.close()
        _die_with(parent)
        _close_all_but(theirs.fileno())
        status = _zygote(settings, ingredients, theirs)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _die_with(parent: int) -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _close_all_but(kept: int) -> None:
    os.closerange(3, kept)
    os.closerange(kept + 1, 65536)


def _zygote(settings: Settings, ingredients: Ingredients, control: socket.socket) -> int:
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)
    os.setsid()
    if settings.mode == "proot":
        return _run_outside(settings, ingredients, control)
    try:
        build_sandbox.enter_namespaces()
    except build_sandbox.SandboxError as error:
        _send(control, {"failed": error.step, "errno": error.number})
        return 1
    # A change of credentials clears it.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    child = os.fork()
    if child:
        # Only waits: the process that unshared the pid namespace cannot be in it.
        control.close()
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) & 0xFF
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        root = build_sandbox.build(settings, ingredients.archive, ingredients.qemu)
    except build_sandbox.SandboxError as error:
        _send(control, {"failed": error.step, "errno": error.number})
        return 1
    kernel.set_process_name("init")
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    _send(control, {"ready": True}, [root])
    os.close(root)
    # The parent-death signal and dumpability are reset by some of the steps above.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    _Zygote(control, prefix=(), folder="/").serve()
    return 0


def _run_outside(settings: Settings, ingredients: Ingredients, control: socket.socket) -> int:
    """proot: paths are translated, nothing is confined; the root is a folder of the host."""
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    # The end of the control socket is what ends this process: it has to end the others first.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 0)
    folder = Path(settings.folder) / "root"
    folder.mkdir(mode=0o700, exist_ok=True)
    build_sandbox.unpack_root(ingredients.archive, folder)
    build_sandbox.write_device_files(settings, folder)
    build_sandbox.make_data(folder)
    # mksh does not run under proot's qemu mode; busybox' shell does.
    shell = folder / "system/bin/sh"
    shell.unlink()
    shell.symlink_to("busybox")
    prefix = [settings.proot, "-r", str(folder), "-b", "/dev", "-b", "/proc", "-w", "/"]
    info = cpuinfo(settings)
    if info:
        (folder / "system/etc/cpuinfo").write_text(info)
        prefix += ["-b", f"{folder}/system/etc/cpuinfo:/proc/cpuinfo"]
    if settings.qemu:
        prefix += ["-q", settings.qemu]
    root = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    _send(control, {"ready": True}, [root])
    os.close(root)
    zygote = _Zygote(control, prefix=prefix, folder=str(folder))
    try:
        zygote.serve()
    finally:
        _end_descendants()
    return 0


def _end_descendants() -> None:
    """Everything that runs below us, adopted orphans too."""
    for _ in range(100):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        if not children:
            return
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        for child in children:
            with suppress(ChildProcessError):
                os.waitpid(int(child), 0)
            _remove_leftovers(int(child))


def _remove_leftovers(pid: int) -> None:
    """What a proot that was killed leaves: an empty folder and its loader, whose place and names it fixes itself."""
    for path in Path("/tmp").glob(f"proot*-{pid}-*"):  # noqa: S108
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def _send(control: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        socket.send_fds(control, [json.dumps(message).encode()], list(fds))


class _Zygote:
    def __init__(self, control: socket.socket, *, prefix: Sequence[str], folder: str) -> None:
        self._control = control
        self._prefix = list(prefix)
        self._folder = folder
        self._started: set[int] = set()

    def serve(self) -> None:
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(read_end, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        while True:
            self._reap()
            ready = dict(poll.poll())
            if read_end in ready:
                with suppress(BlockingIOError):
                    os.read(read_end, 512)
            if self._control.fileno() in ready and not self._one_request():
                return

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._started:
                self._started.discard(pid)
                code = os.waitstatus_to_exitcode(status)
                if self._prefix and code < 0:
                    _remove_leftovers(pid)
                _send(self._control, {"event": "exit", "pid": pid, "status": code if code >= 0 else 128 - code})

    def _one_request(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return False
        if not data:
            return False
        request = json.loads(data)
        answer: dict[str, Any] = {"id": request["id"]}
        passed: list[int] = []
        try:
            if request["op"] == "spawn":
                answer["pid"] = self._spawn(request, fds, passed)
            elif request["op"] == "kill":
                self._kill(request["pid"], request["signal"])
            else:
                passed.append(self._socket(request["op"], request["kind"], request["name"]))
        except OSError as error:
            answer["errno"] = error.errno or errno.EIO
        _send(self._control, answer, passed)
        for fd in (*fds, *passed):
            os.close(fd)
        return True

    def _spawn(self, request: dict[str, Any], fds: list[int], passed: list[int]) -> int:
        slave = -1
        if request["pty"]:
            master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            passed.append(master)
            fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
            slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
            fds = [slave, slave, slave]
        try:
            pid = os.fork()
            if pid == 0:
                self._become(request, fds)
        finally:
            if slave >= 0:
                os.close(slave)
        self._started.add(pid)
        return pid

    def _become(self, request: dict[str, Any], fds: list[int]) -> NoReturn:
        status = 127
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for name in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(name, signal.SIG_DFL)
            # Above the targets first, so that no dup2 overwrites a source.
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in fds]
            for number, fd in enumerate(high):
                os.dup2(fd, number)
            if request["pty"]:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            os.closerange(3, 256)
            if self._prefix:
                kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.umask(0o022)
            os.chdir(self._folder)
            argv = [*self._prefix, *request["argv"]]
            os.execve(argv[0], argv, request["env"])  # noqa: S606 - argv[0] is the shell in the device
        except OSError as error:
            os.write(2, f"{request['argv'][0]}: {error.strerror}\n".encode())
            status = 126 if error.errno in (errno.EACCES, errno.ENOEXEC) else 127
        finally:
            os._exit(status)

    def _kill(self, pid: int, number: int) -> None:
        if pid in self._started:
            with suppress(ProcessLookupError):
                os.killpg(pid, number)

    def _socket(self, op: str, kind: str, name: str) -> int:
        family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
        address: tuple[str, int] | bytes
        if kind == "tcp":
            address = ("127.0.0.1", int(name))
        elif kind == "abstract":
            address = b"\0" + os.fsencode(name)
        else:
            address = os.fsencode(name if self._folder == "/" else self._folder + name)
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as made:
            if op == "listen":
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(address)
                made.listen(64)
            elif kind == "tcp":
                with suppress(BlockingIOError):  # goes on; the daemon waits for it
                    made.connect(address)
            else:
                made.connect(address)
            return made.detach()
