"""A real sshd on loopback for the tests of ssh://: its own keys, configuration, port, home folder and user key.

Without root, sshd lets in the user that it runs as; as root it needs /run/sshd and the system user that Debian's
package makes.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.ports import free_port

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
HOST = "the-box"


def why_not() -> str | None:
    """Why no sshd can be run here; ``None`` where it can."""
    if SSHD is None or shutil.which("ssh") is None:
        return "OpenSSH's client and server are not installed: apt install openssh-server"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("sshd")
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        except (KeyError, OSError) as error:
            return f"sshd cannot run as root here: {error}"
    return None


def _key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@dataclass
class Sshd:
    """``folder`` holds all that belongs to it; ``home`` is ``$HOME`` of those who log in."""

    folder: Path
    path: str | None = None
    """``$PATH`` of those who log in."""
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    url: str = field(default=f"ssh://{HOST}")

    @property
    def home(self) -> Path:
        return self.folder / "home of another machine's user"

    @property
    def store(self) -> Path:
        return self.home / ".cache" / "mobilekit" / "tensorrt"

    @property
    def config(self) -> Path:
        return self.folder / "client.conf"

    def setup(self) -> None:
        self.home.mkdir(parents=True)
        host_key, user_key = _key(self.folder / "host"), _key(self.folder / "user")
        shutil.copy(f"{user_key}.pub", self.folder / "authorized")
        environment = [f'HOME="{self.home}"', *([f'PATH="{self.path}"'] if self.path else [])]
        (self.folder / "sshd.conf").write_text(
            f"""ListenAddress 127.0.0.1
HostKey "{host_key}"
PidFile none
AuthorizedKeysFile "{self.folder}/authorized"
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
PrintMotd no
SetEnv {" ".join(environment)}
"""
        )
        self.start()
        self.know(host_key)

    def know(self, host_key: Path) -> None:
        """Write the client's configuration: it knows this key of the server's, whatever the server's is."""
        kind, key, *_ = Path(f"{host_key}.pub").read_text().split()
        (self.folder / "known").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        self.config.write_text(
            f"""Host {HOST}
    HostName 127.0.0.1
    Port {self.port}
    IdentityFile "{self.folder}/user"
    IdentitiesOnly yes
    UserKnownHostsFile "{self.folder}/known"
    GlobalKnownHostsFile /dev/null
"""
        )

    def start(self) -> None:
        assert SSHD is not None
        for _ in range(5):
            self.port = self.port or free_port()
            command = [SSHD, "-D", "-e", "-p", str(self.port), "-f", str(self.folder / "sshd.conf")]
            with (self.folder / "sshd.log").open("ab") as log:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, stdout=log)
            for _ in range(200):
                if self.process.poll() is not None:
                    break
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                    return
                time.sleep(0.02)
            self.stop()
            self.port = 0
        raise AssertionError(f"sshd does not start: {(self.folder / 'sshd.log').read_text()[-500:]}")

    def stop(self) -> None:
        """The server and every connection that it serves, as when the machine is switched off."""
        if self.process is not None:
            for pid in [self.process.pid, *descendants(self.process.pid, named="sshd")]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def running(self) -> list[str]:
        """The commands that run for those who are logged in."""
        assert self.process is not None
        commands = []
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if command and not command.startswith("sshd"):
                    commands.append(command)
        return commands

    def rooms(self) -> list[Path]:
        return sorted(self.store.glob("room-*"))

    def files(self) -> set[str]:
        return {path.name for path in self.store.iterdir() if path.is_file()} if self.store.exists() else set()


def descendants(pid: int, *, named: str = "") -> list[int]:
    children: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = stat.read_text()
            name, after = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
            children.setdefault(int(after[1]), []).append(int(stat.parent.name))
            names[int(stat.parent.name)] = name
    found, left = [], [pid]
    while left:
        for child in children.get(left.pop(), []):
            left.append(child)
            if names[child].startswith(named):
                found.append(child)
    return found


def wait_until(condition, timeout_s: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def running_sshd(folder: Path, monkeypatch: pytest.MonkeyPatch, *, path: str | None = None) -> Sshd:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    server = Sshd(folder, path)
    folder.mkdir(parents=True, exist_ok=True)
    server.setup()
    monkeypatch.setenv("MOBILEKIT_SSH", shlex.join(["ssh", "-F", str(server.config)]))
    return server
