"""Another machine over a real sshd on loopback: commands, files, rooms, and everything that goes wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mobilekit.device.ssh import SshMachine
from mobilekit.device.ssh_address import SshAddress
from mobilekit.device.ssh_room import RemoteStore, Room, find_pythons
from mobilekit.errors import (
    ChildCrashError,
    ChildError,
    ChildTimeoutError,
    DeviceLostError,
    DeviceStorageError,
    MissingToolError,
    NoDeviceError,
    SshError,
)
from mobilekit.progress import SILENT
from tests.unit.device.ssh_lab import Sshd, running_sshd, wait_until

ODD = 'it\'s a "file"\n of $HOME; `id` * \\ -x'


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    server = running_sshd(tmp_path / "server's folder", monkeypatch)
    yield server
    server.stop()


@pytest.fixture
def machine(sshd: Sshd) -> Iterator[SshMachine]:
    with SshMachine(SshAddress.parse(sshd.url)) as machine:
        yield machine


@pytest.fixture
def store(machine: SshMachine) -> RemoteStore:
    return RemoteStore(machine, "tensorrt")


class _OnTheWay:
    """Progress that does something when the first piece of a file has been sent."""

    step = note = staticmethod(lambda text: None)

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self.advanced = 0.0

    @contextlib.contextmanager
    def task(self, text: str, total: float | None = None, *, unit: str = "") -> Iterator[_OnTheWay]:
        yield self

    def describe(self, text: str) -> None:
        pass

    def advance(self, amount: float = 1) -> None:
        first, self.advanced = not self.advanced, self.advanced + amount
        if first:
            self._act()


def _connect(sshd: Sshd) -> None:
    with SshMachine(SshAddress.parse(sshd.url)):
        raise AssertionError("it let us in")


def test_a_command_gets_its_arguments_and_input_as_they_are(machine: SshMachine, sshd: Sshd) -> None:
    assert machine.home == str(sshd.home)
    done = machine.shell(["sh", "-c", 'printf "%s|" "$@"; cat; exit 7', "sh", ODD, "", "*"], stdin=b"a\0b")
    assert (done.stdout, done.returncode) == (f"{ODD}||*|".encode() + b"a\0b", 7)
    assert machine.shell(["sh", "-c", "echo no >&2; exit 255"]).returncode == 255
    assert machine.shell(["no-such-program"]).returncode == 127


def test_what_a_login_shell_prints_is_no_answer(sshd: Sshd) -> None:
    sshd.home.joinpath(".bashrc").write_text("echo welcome\n")
    sshd.home.joinpath(".zshenv").write_text("echo welcome\n")
    with SshMachine(SshAddress.parse(sshd.url)) as machine:
        assert machine.shell(["echo", "hello"]).stdout == b"hello\n"


def test_files_come_and_go_as_they_are(machine: SshMachine, sshd: Sshd, tmp_path: Path) -> None:
    local, back = tmp_path / ODD.replace("/", ""), tmp_path / "back"
    local.write_bytes(os.urandom(700_000))
    there = sshd.home / f"there {ODD}"
    seen = _OnTheWay(lambda: None)
    machine.push(local, str(there), mode=0o600, progress=seen)
    assert there.read_bytes() == local.read_bytes()
    assert there.stat().st_mode & 0o777 == 0o600
    assert seen.advanced == 700_000
    machine.pull(str(there), back, size_bytes=700_000)
    assert back.read_bytes() == local.read_bytes()
    assert [path.name for path in sshd.home.iterdir()] == [there.name]
    with pytest.raises(SshError, match="No such file"):
        machine.pull(str(sshd.home / "nothing"), tmp_path / "none", size_bytes=1)
    with pytest.raises(DeviceLostError, match="as it was"):
        machine.pull(str(there), tmp_path / "none", size_bytes=699_999)
    assert not (tmp_path / "none").exists()


def test_the_connection_leaves_nothing_here(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.mkdtemp(prefix="mk", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    with SshMachine(SshAddress.parse(sshd.url)) as machine:
        (private,) = folder.iterdir()
        assert private.stat().st_mode & 0o777 == 0o700
        assert machine.shell(["true"]).returncode == 0
    assert list(folder.iterdir()) == []
    assert wait_until(lambda: not sshd.running())
    folder.rmdir()
    # A path that no socket can have is passed over.
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with SshMachine(SshAddress.parse(sshd.url)):
        assert list(long.iterdir()) == []


def test_another_host_key_is_not_accepted(sshd: Sshd) -> None:
    sshd.know(sshd.folder / "user")
    with pytest.raises(NoDeviceError, match=r"host key .* is not the one that is known") as caught:
        _connect(sshd)
    assert caught.value.exit_code == 4
    (sshd.folder / "known").write_text("")
    with pytest.raises(NoDeviceError, match=r"host key .* is not known") as caught:
        _connect(sshd)
    assert "`ssh the-box`" in caught.value.hint


def test_a_refused_key_is_said(sshd: Sshd) -> None:
    (sshd.folder / "authorized").write_text("")
    with pytest.raises(NoDeviceError, match="refuses the login") as caught:
        _connect(sshd)
    assert "ssh-copy-id" in caught.value.hint


def test_a_host_that_is_down_is_said(sshd: Sshd) -> None:
    sshd.stop()
    with pytest.raises(NoDeviceError, match=r"cannot be reached: .*refused"):
        _connect(sshd)


def test_ssh_itself_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILEKIT_SSH", "/nowhere/ssh")
    with pytest.raises(MissingToolError, match="/nowhere/ssh"), SshMachine(SshAddress("host")):
        pass


def test_a_server_that_dies_sending_has_no_half_of_the_file(machine: SshMachine, sshd: Sshd, tmp_path: Path) -> None:
    local, there = tmp_path / "large", sshd.home / "large"
    local.write_bytes(bytes(64_000_000))

    def die() -> None:
        # Only once the shell there is at work: while sshd becomes it, it is the shell that would be killed.
        assert wait_until(lambda: any(path.stat().st_size for path in sshd.home.iterdir()))
        sshd.stop()

    with pytest.raises(DeviceLostError, match="connection to ssh://the-box was lost") as caught:
        machine.push(local, str(there), progress=_OnTheWay(die))
    assert caught.value.exit_code == 4
    assert wait_until(lambda: list(sshd.home.iterdir()) == [])
    # ssh must not make another connection by itself once the server is back.
    sshd.start()
    with pytest.raises(DeviceLostError):
        machine.shell(["true"])


def test_a_full_disk_is_said_and_keeps_nothing(machine: SshMachine, sshd: Sshd, tmp_path: Path) -> None:
    small = sshd.home / "small"
    small.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be made here: {done.stderr.strip()}")
    try:
        local = tmp_path / "large"
        local.write_bytes(bytes(3_000_000))
        with pytest.raises(DeviceStorageError, match="no space left there"):
            machine.push(local, str(small / "large"))
        assert list(small.iterdir()) == []
        with pytest.raises(DeviceStorageError, match=r"has 0\.[0-9] MB free"):
            RemoteStore(machine, "../../small").ensure([local])
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_what_is_there_is_not_sent_again_unless_it_was_changed(machine: SshMachine, sshd: Sshd, tmp_path: Path) -> None:
    store = RemoteStore(machine, "tensorrt")
    local = tmp_path / "model.onnx"
    weights = b"weights" * 20_000
    local.write_bytes(weights)
    first = _OnTheWay(lambda: None)
    there = Path(store.ensure([local], first)[local])
    assert there.read_bytes() == weights
    assert there.parent == sshd.store
    again = _OnTheWay(lambda: None)
    store.ensure([local], again)
    assert (first.advanced, again.advanced) == (140_000, 0)
    there.write_bytes(weights.upper())
    store.ensure([local], again)
    assert again.advanced == 0, "one look for each connection"
    RemoteStore(machine, "tensorrt").ensure([local], again)
    assert there.read_bytes() == weights
    assert again.advanced == 140_000


def test_the_longest_unused_go_first(machine: SshMachine, sshd: Sshd, tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(os.urandom(1000))
    store = RemoteStore(machine, "tensorrt", quota_bytes=2500)
    names = {}
    for age, file in zip((20, 30), files, strict=False):
        names[file] = Path(store.ensure([file])[file])
        then = names[file].stat().st_mtime - age
        os.utime(names[file], (then, then))
    kept = {names[files[0]].name, Path(store.ensure([files[2]])[files[2]]).name}
    assert sshd.files() == kept
    with pytest.raises(DeviceStorageError, match="quota"):
        RemoteStore(machine, "tensorrt", quota_bytes=2500).ensure(files)


def test_pythons_are_found_by_name_and_by_path(machine: SshMachine, sshd: Sshd) -> None:
    own = sshd.home / "my venv" / "python"
    own.parent.mkdir()
    own.symlink_to(sys.executable)
    found = find_pythons(machine, ["~/my venv/python", "no-such-python", "/bin/true", str(own)])
    version = tuple(sys.version_info[:3])
    assert [python.version for python in found] == [version, (), (), version]
    assert found[0].command == str(own)


@pytest.fixture
def room(machine: SshMachine, store: RemoteStore) -> Iterator[Room]:
    with Room(machine, store, sys.executable) as room:
        yield room


_SERVER = """
import os, pathlib, sys
count = 0
for line in sys.stdin:
    folder = pathlib.Path(line.rstrip("\\n"))
    exec((folder / "job").read_text())
    count += 1
    print(count, flush=True)
"""


def _job(
    room: Room, store: RemoteStore, folder: Path, name: str, code: str, *, fresh: bool = False, timeout_s: float = 120.0
) -> dict[str, int]:
    script = folder / f"{name}.py"
    script.write_text(code)
    files = {"job": store.ensure([script])[script]}
    server = [sys.executable, "-c", _SERVER]
    return room.job(name, files, server, fresh=fresh, what="the work", timeout_s=timeout_s)


def test_a_room_does_jobs_and_is_removed(sshd: Sshd, machine: SshMachine, store: RemoteStore, tmp_path: Path) -> None:
    heard: list[str] = []

    def hear(line: str) -> bool:
        heard.append(line)
        return True

    with Room(machine, store, sys.executable, heard=hear) as room:
        assert sshd.rooms() == [Path(room.folder)]
        assert room.run(["sh", "-c", 'printf %s "$1"', "sh", ODD], what="printing") == ODD
        files = _job(room, store, tmp_path, "one", "(folder / 'out put').write_text(f'{count}')")
        assert files == {"out put": 1}
        room.get("one/out put", tmp_path / "back", size_bytes=files["out put"])
        assert (tmp_path / "back").read_text() == "0"
        _job(room, store, tmp_path, "two", "(folder / 'n').write_text(str(count)); print('says', file=sys.stderr)")
        assert (Path(room.folder) / "two" / "n").read_text() == "1", "the same server goes on"
        assert not (Path(room.folder) / "one").exists()
        _job(room, store, tmp_path, "three", "(folder / 'n').write_text(str(count))", fresh=True)
        assert (Path(room.folder) / "three" / "n").read_text() == "0"
        assert wait_until(lambda: heard == ["says"])
    assert wait_until(lambda: sshd.rooms() == [])
    assert len(sshd.files()) == 4, "the guard and three jobs stay for the next time"


def test_how_a_program_ends_is_told(room: Room, store: RemoteStore, tmp_path: Path) -> None:
    with pytest.raises(ChildCrashError, match=r"the work on ssh://the-box was ended by SIGSEGV"):
        _job(room, store, tmp_path, "crash", "os.kill(os.getpid(), 11)")
    with pytest.raises(ChildError, match="exit code 3") as caught:
        _job(room, store, tmp_path, "exit", "print('because', file=sys.stderr, flush=True); os._exit(3)")
    assert "because" in caught.value.hint
    with pytest.raises(ChildTimeoutError, match="5 s"):
        _job(room, store, tmp_path, "hang", "import time; time.sleep(1000)", timeout_s=5.0)
    with pytest.raises(ChildError, match="exit code 1"):
        room.run(["false"], what="failing")
    with pytest.raises(SshError, match="no-such-program"):
        room.run(["no-such-program"], what="failing")
    assert _job(room, store, tmp_path, "after", "pass") == {}


def test_what_is_said_last_is_heard_however_late(machine: SshMachine, store: RemoteStore, tmp_path: Path) -> None:
    """Errors come on a stream of their own, which the answer overtakes."""

    def slow(line: str) -> bool:
        time.sleep(0.5)
        return False

    with Room(machine, store, sys.executable, heard=slow) as room:
        with pytest.raises(ChildError, match="exit code 3") as caught:
            _job(room, store, tmp_path, "exit", "os.write(2, b'because of this'); os._exit(3)")
        assert caught.value.hint == "because of this"


def test_a_program_ends_with_the_connection(room: Room, store: RemoteStore, sshd: Sshd, tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    stopper = threading.Thread(target=lambda: (wait_until(mark.exists, 120.0), sshd.stop()))
    stopper.start()
    code = f"import time\nwhile True: pathlib.Path({str(mark)!r}).touch(); time.sleep(0.05)"
    with pytest.raises(DeviceLostError):
        _job(room, store, tmp_path, "endless", code)
    stopper.join()
    assert wait_until(lambda: sshd.rooms() == [])
    mark.unlink()
    assert not wait_until(mark.exists, 0.5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_program_ends_with_its_client(sshd: Sshd, tmp_path: Path, number: int) -> None:
    mark = tmp_path / "alive"
    (tmp_path / "job.py").write_text(
        f"import time, subprocess\nsubprocess.Popen(['sleep', '1000'])\n"
        f"while True: pathlib.Path({str(mark)!r}).touch(); time.sleep(0.05)"
    )
    client = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from mobilekit.device.ssh import SshMachine
        from mobilekit.device.ssh_address import SshAddress
        from mobilekit.device.ssh_room import RemoteStore, Room

        with SshMachine(SshAddress.parse({sshd.url!r})) as machine:
            store = RemoteStore(machine, "tensorrt")
            job = Path({str(tmp_path / "job.py")!r})
            with Room(machine, store, sys.executable) as room:
                server = [sys.executable, "-c", {_SERVER!r}]
                room.job("job", {{"job": store.ensure([job])[job]}}, server, fresh=False, what="it", timeout_s=1000)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", client], stderr=subprocess.PIPE)
    assert wait_until(mark.exists), process.poll()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert wait_until(lambda: not sshd.running()), sshd.running()
    assert sshd.rooms() == []


def test_two_clients_share_a_machine(sshd: Sshd, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_bytes(os.urandom(3_000_000))
    failed: list[BaseException] = []
    both = threading.Barrier(2, timeout=120)

    def use(name: str) -> None:
        try:
            with SshMachine(SshAddress.parse(sshd.url)) as machine:
                store = RemoteStore(machine, "tensorrt")
                both.wait()
                there = store.ensure([model], SILENT)[model]
                with Room(machine, store, sys.executable) as room:
                    both.wait()
                    assert len(sshd.rooms()) == 2
                    assert room.run(["cmp", there, str(model)], what="comparing") == ""
                    both.wait()
        except BaseException as error:
            failed.append(error)
            both.abort()

    threads = [threading.Thread(target=use, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    assert wait_until(lambda: sshd.rooms() == [])
    assert len(sshd.files()) == 2
