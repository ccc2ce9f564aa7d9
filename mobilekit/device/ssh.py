"""Another machine over the system's ``ssh``: one connection for a whole command, shared by all that is done there.

The user's ``~/.ssh/config``, keys and ``known_hosts`` are what counts; nothing is asked, and a host whose key is not
known is refused, as ssh does without a terminal. Files travel over ``cat``, so the server needs no sftp, only
``sh`` and coreutils or busybox.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from mobilekit.bundle import sha256_of
from mobilekit.device.base import ShellResult
from mobilekit.device.ssh_address import SshAddress
from mobilekit.device.ssh_session import LOST, Session
from mobilekit.errors import (
    DeviceLostError,
    DeviceStorageError,
    MissingToolError,
    NoDeviceError,
    ShellError,
    SshError,
    UsageError,
)
from mobilekit.paths import Scratch, atomic_file
from mobilekit.progress import SILENT, Progress, Task

__all__ = ["SshMachine"]

_OPTIONS = (
    *("-T", "-x", "-a"),
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=15"),
    # A connection that no longer answers is given up after half a minute.
    *("-o", "ServerAliveInterval=10"),
    *("-o", "ServerAliveCountMax=3"),
    *("-o", "ClearAllForwardings=yes"),
    *("-o", "PermitLocalCommand=no"),
    *("-o", "RemoteCommand=none"),
    *("-o", "LogLevel=ERROR"),
)
_LOGIN_S = 60.0
_LONGEST_S = 7200.0
_PIECE_BYTES = 1 << 18
_SHOWN_BYTES = 100_000
"""Smaller files come and go without a word."""
_SOCKET_BYTES = 104 - 20
"""The longest path of a socket (BSD's; Linux has 108), less what ssh appends while it makes one."""

_PUSH = """
umask 077
part=${1%/*}/.${1##*/}.$2.part
trap 'rm -f -- "$part"' EXIT
cat >"$part" || exit 31
sum=$(sha256sum <"$part") || exit 33
[ "${sum%% *}" = "$3" ] || exit 32
chmod "$4" "$part" && mv -f -- "$part" "$1"
"""
_PULL = 'sha256sum <"$1" && exec cat <"$1"'


class SshMachine:
    """Implements :class:`mobilekit.device.base.Host`. The connection lasts as long as the ``with`` block.

    ``$MOBILEKIT_SSH`` names another ssh, with arguments: ``ssh -F FILE``. Every method raises
    :class:`DeviceLostError` where the connection breaks.
    """

    def __init__(self, address: SshAddress, *, progress: Progress = SILENT) -> None:
        self.address = address
        self.serial = str(address)
        self._progress = progress
        self._master: Session | None = None
        self._folder: Scratch | None = None
        self._ssh: list[str] = []
        self.home = ""
        """The user's home folder there, an absolute path."""
        self.system = ""
        """What ``uname -sm`` says: ``"Linux aarch64"``."""

    def __enter__(self) -> SshMachine:
        self._ssh = _program()
        self._folder = Scratch("ssh", _short_folder())
        try:
            self._progress.step(f"connecting to {self.serial}")
            self._log_in()
            self._look()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        try:
            if self._master is not None:
                self._master.close(2.0)
        finally:
            self._master = None
            if self._folder is not None:
                self._folder.cleanup()

    @property
    def _socket(self) -> str:
        assert self._folder is not None
        return f"{self._folder.path}/s"

    def _log_in(self) -> None:
        mark = secrets.token_hex(8)
        # cat holds the session open until our end closes, however we end: kill -9 included.
        argv = [*self._ssh, *_OPTIONS, "-o", "ControlMaster=yes", "-o", "ControlPersist=no", "-S", self._socket]
        self._master = Session([*argv, *self.address.arguments, f"echo {mark}; exec cat"], mark, serial=self.serial)
        deadline = time.monotonic() + _LOGIN_S
        try:
            if not self._master.begin(deadline):
                self._master.wait(deadline)
                raise self._refused(self._master.stderr)
        except TimeoutError:
            raise NoDeviceError(
                f"{self.serial} did not let us in within {_LOGIN_S:g} s", hint=f"try `{self._by_hand()}`"
            ) from None

    def _look(self) -> None:
        result = self.shell(["sh", "-c", 'printf "%s\\n" "$HOME"; uname -sm'])
        lines = result.stdout.decode("utf-8", "replace").splitlines()
        if len(lines) != 2 or not lines[0].startswith("/"):
            raise SshError(
                "uname -sm",
                serial=self.serial,
                returncode=result.returncode,
                stdout="\n".join(lines),
                stderr=result.stderr.decode("utf-8", "replace"),
                hint="a POSIX shell and a home folder are needed there",
            )
        self.home, self.system = lines

    def open(self, argv: Sequence[str], *, heard: Callable[[str], bool] | None = None) -> Session:
        """Begin a command whose input and output the caller handles; every argument is quoted for a shell.

        ``heard`` is given each line of its stderr; those for which it is true are not kept.
        """
        mark = secrets.token_hex(8)
        begin = shlex.quote(f'echo {mark}; exec "$@"')
        quoted = f"exec sh -c {begin} sh {shlex.join(argv)}"
        # Where the connection is gone, ssh would make another one by itself: false stands in its way.
        own = ["-o", "ControlMaster=no", "-o", "ProxyCommand=false", "-S", self._socket]
        command = [*self._ssh, *_OPTIONS, *own, *self.address.arguments, quoted]
        return Session(command, mark, serial=self.serial, heard=heard)

    def shell(self, argv: Sequence[str], *, timeout_s: float = 60.0, stdin: bytes = b"") -> ShellResult:
        """Run a command to its end; a non-zero exit is not an error."""
        out = bytearray()
        code, said = self._converse(argv, [stdin] if stdin else [], out.extend, timeout_s)
        return ShellResult(bytes(out), said.encode(), code)

    def _converse(
        self, argv: Sequence[str], feed: Iterable[bytes], sink: Callable[[bytes], object], timeout_s: float
    ) -> tuple[int, str]:
        session = self.open(argv)
        try:
            code = session.converse(feed, sink, time.monotonic() + timeout_s)
        except TimeoutError:
            raise SshError(
                shown(argv),
                serial=self.serial,
                stderr=f"it did not end within {timeout_s:g} s",
                hint=f"something hangs there, a disk or a program: try `{self._by_hand()}`",
            ) from None
        if code == LOST:
            self.check(session)
        return code, session.stderr

    def check(self, session: Session) -> None:
        """Raises where ``session`` ended because the connection did, or never was let in."""
        assert self._master is not None
        with suppress(TimeoutError):  # it learns of the end a moment after the session
            self._master.wait(time.monotonic() + 1.0)
        if self._master.process.poll() is not None:
            said = self._master.stderr or session.stderr
            raise DeviceLostError(
                f"the connection to {self.serial} was lost" + (f": {_last_line(said)}" if said else ""),
                hint="nothing was kept here; check the network and the machine, then try again",
            )
        if not session.started:
            raise SshError(
                "open a session",
                serial=self.serial,
                stderr=session.stderr,
                hint="its server must allow a few sessions at once (MaxSessions in sshd_config)",
            )

    def push(self, local: Path, remote: str, *, mode: int = 0o644, progress: Progress = SILENT) -> None:
        """Copy a file to the absolute path ``remote``, which appears when its sha256 there is that of ``local``."""
        size = local.stat().st_size
        argv = ["sh", "-c", _PUSH, "sh", remote, secrets.token_hex(4), sha256_of(local), f"{mode:o}"]
        shown = progress if size >= _SHOWN_BYTES else SILENT
        with shown.task(f"copying {local.name} to {self.serial}", size, unit="bytes") as task:
            code, said = self._converse(argv, _pieces(local, task), _nothing, _LONGEST_S)
        if code == 0:
            return
        if full := storage_error(self.serial, said):
            raise full
        if code == 32:
            raise DeviceLostError(
                f"{local.name} did not arrive at {self.serial} as it was sent", hint="nothing was kept there; try again"
            )
        raise SshError(f"write {remote}", serial=self.serial, returncode=code, stderr=said)

    def pull(self, remote: str, local: Path, *, size_bytes: int, progress: Progress = SILENT) -> None:
        """Copy the file ``remote`` of that size; ``local`` appears when its sha256 is that of the file there."""
        with atomic_file(local) as temporary, temporary.open("wb") as file:
            shown = progress if size_bytes >= _SHOWN_BYTES else SILENT
            with shown.task(f"fetching {local.name} from {self.serial}", size_bytes, unit="bytes") as task:
                incoming = _Incoming(file.write, task, size_bytes)
                code, said = self._converse(["sh", "-c", _PULL, "sh", remote], [], incoming, _LONGEST_S)
            file.flush()
            if code != 0:
                raise SshError(f"read {remote}", serial=self.serial, returncode=code, stderr=said)
            if sha256_of(temporary) != incoming.sha256:
                raise DeviceLostError(f"{local.name} did not come from {self.serial} as it was", hint="try again")

    def script(self, text: str, *arguments: str, timeout_s: float = 60.0) -> str:
        """Run a shell script that must succeed; its output. Raises :class:`ShellError`, or what the disk says."""
        result = self.shell(["sh", "-c", text, "sh", *arguments], timeout_s=timeout_s)
        stdout, stderr = (data.decode("utf-8", "replace") for data in (result.stdout, result.stderr))
        if result.returncode != 0:
            if full := storage_error(self.serial, stderr):
                raise full
            raise SshError(
                shown(text.split()), serial=self.serial, returncode=result.returncode, stdout=stdout, stderr=stderr
            )
        return stdout

    def _by_hand(self) -> str:
        arguments = [argument for argument in self.address.arguments if argument != "--"]
        return shlex.join(["ssh", *arguments])

    def _refused(self, said: str) -> ShellError | NoDeviceError:
        """ssh's own words, and what to do about them."""
        low, hand = said.lower(), self._by_hand()
        if "identification has changed" in low:
            return NoDeviceError(
                f"the host key of {self.serial} is not the one that is known: another machine may be answering",
                hint="if the machine was set up anew, remove its old key with ssh-keygen -R",
            )
        if "host key verification failed" in low:
            return NoDeviceError(
                f"the host key of {self.serial} is not known", hint=f"run `{hand}` once and compare the fingerprint"
            )
        if "permission denied" in low:
            return NoDeviceError(
                f"{self.serial} refuses the login: {_last_line(said)}",
                hint=f"`{hand}` must work without a question: ssh-copy-id, or a key in ssh-agent",
            )
        if any(text in low for text in ("resolve hostname", "refused", "timed out", "no route", "unreachable")):
            return NoDeviceError(
                f"{self.serial} cannot be reached: {_last_line(said)}", hint="check host, port and network"
            )
        return SshError("log in", serial=self.serial, stderr=_last_line(said), hint=f"try `{hand}`")


class _Incoming:
    """What :data:`_PULL` prints: a line with the sha256, then the bytes."""

    def __init__(self, write: Callable[[bytes], object], task: Task, limit_bytes: int) -> None:
        self._write, self._task, self._left = write, task, limit_bytes
        self._line = b""
        self.sha256 = ""

    def __call__(self, data: bytes) -> None:
        if not self.sha256:
            self._line += data
            line, newline, data = self._line.partition(b"\n")
            if not newline:
                if len(self._line) <= 1024:
                    return
                line = b""  # no sha256 is so long
            self.sha256 = line.split()[0].decode("ascii", "replace") if line.split() else "none"
        data = data[: self._left]  # a file that grew meanwhile is found by its sha256
        self._left -= len(data)
        self._task.advance(len(data))
        self._write(data)


def shown(argv: Sequence[str]) -> str:
    """The command for a message: quoted, on one line, and not longer than that."""
    text = " ".join(shlex.join(argv).split())
    return text if len(text) <= 80 else text[:77] + "..."


def storage_error(serial: str, said: str) -> DeviceStorageError | None:
    """The error that ``said`` is of, where it tells of a full disk or a place that may not be written."""
    low = said.lower()
    if "no space left" in low or "quota exceeded" in low:
        return DeviceStorageError(f"{serial}: no space left there", hint=f"free some: {_last_line(said)}")
    if "read-only file system" in low:
        return DeviceStorageError(f"{serial}: its home folder cannot be written", hint=_last_line(said))
    return None


def _program() -> list[str]:
    try:
        words = shlex.split(os.environ.get("MOBILEKIT_SSH") or "ssh")
    except ValueError as error:
        raise UsageError(f"$MOBILEKIT_SSH is no command: {error}", hint="quote it as for a shell") from error
    if shutil.which(words[0]) is None:
        raise MissingToolError(
            f"ssh://... needs the program {words[0]!r}, which is not on PATH", hint="apt install openssh-client"
        )
    return words


def _short_folder() -> Path:
    """A place for temporary files with a path short enough for a socket."""
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - the folder in it is private
        short = base and len(base.encode()) + len("/mobilekit-scratch-ssh-12345678/s") <= _SOCKET_BYTES
        # ssh expands % and more in the path of its socket.
        if base and short and os.access(base, os.W_OK) and re.fullmatch(r"[A-Za-z0-9/._+-]+", base):
            return Path(base)
    raise UsageError("no folder for ssh's socket: the path of every temporary folder is too long", hint="set TMPDIR")


def _pieces(path: Path, task: Task) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
            task.advance(len(piece))


def _nothing(data: bytes) -> None:
    pass


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1].strip() if text.strip() else "ssh says nothing"
