"""What a device cannot do, who gets in, and what is left of it: as root and as an ordinary user."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.virtual_lab import (
    NOBODY,
    Lab,
    adb_programs,
    alive,
    handles,
    laboratory,
    need_sandbox,
    orphans_come_here,
    tree,
    wait_for,
)
from tests.ports import free_port

pytestmark = pytest.mark.device


def _adb() -> str:
    return next(iter(adb_programs().values()))


def _python_for(user: int) -> str:
    """An interpreter with mobilekit that another user may run (root's own often lies in root's home)."""
    env = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        try:
            done = subprocess.run(
                [candidate, "-c", "import adbutils, mobilekit.device.virtual, mobilekit.cli.main"],
                env=env, user=user, group=user, extra_groups=[], cwd="/", capture_output=True, timeout=60, check=False,
            )  # fmt: skip
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    pytest.skip("no Python with mobilekit's packages that an ordinary user may run")


@pytest.fixture(scope="module", params=["same user", "ordinary user", "native"])
def bench(request: pytest.FixtureRequest) -> Iterator[Lab]:
    abi = "x86_64" if request.param == "native" else "arm64-v8a"
    need_sandbox(abi)
    options: dict[str, object] = {}
    if request.param == "ordinary user":
        if os.geteuid() != 0:
            pytest.skip("only root can become another user; this run is an ordinary user's already")
        options = {"user": NOBODY, "python": _python_for(NOBODY)}
    with laboratory(_adb(), **options) as made:
        made.start("--abi", abi, "--storage", "16M", "--name", "jail")
        yield made


@pytest.fixture
def lab(bench: Lab) -> Iterator[Lab]:
    """The bench, with the device "jail" in front; what a failed test left running is stopped."""
    jail = bench.serial
    yield bench
    bench.serial = jail
    left = {path.parent.name for path in (bench.folder / "state/virtual").glob("*/device.json")}
    for name in left - {"jail"}:
        bench.mobilekit("device", "virtual", "stop", name)


def test_no_capability_and_no_way_to_get_one(lab: Lab) -> None:
    status = lab.shell("cat /proc/self/status").stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Uid"].split() == ["2000"] * 4


@pytest.mark.parametrize(
    "command",
    [
        "mount -t tmpfs none /mnt",
        "mount -o bind /data /mnt",
        "mount -o remount,rw /",
        "umount /data",
        "umount -l /proc",
        "chroot / true",
        "unshare -U true",
        "unshare -m true",
        "unshare -r mount -t tmpfs none /mnt",
        "mknod /data/local/tmp/sda b 8 0",
        "hostname other",
        "touch /system/bin/evil",
        "touch /dev/evil",
        "echo evil > /proc/sys/kernel/core_pattern",
        "echo evil > /proc/sys/kernel/hostname",
        "echo 1 > /proc/sys/fs/binfmt_misc/status",
        "echo b > /proc/sysrq-trigger",
        "cat /proc/1/environ",
        "cat /proc/1/maps",
        "ls /proc/1/root/",
        "ls /proc/1/fd/",
        "cat /proc/1/mem",
        "nsenter -t 1 -m true",
        "cat /proc/kcore | head -c 1 | grep .",
    ],
)
def test_what_a_sandbox_refuses(lab: Lab, command: str) -> None:
    done = lab.shell(command)
    assert done.returncode != 0, done


def test_a_command_inherits_three_descriptors(lab: Lab) -> None:
    # The fourth is ls' own, of the folder it lists.
    assert lab.shell("ls /proc/self/fd").stdout.split() == [b"0", b"1", b"2", b"3"]


def test_it_cannot_end_its_init(lab: Lab) -> None:
    lab.shell("kill -9 1; kill -15 1; kill -9 -1")
    assert lab.shell("echo alive").stdout == b"alive\n"


def test_the_hosts_files_are_not_there(lab: Lab) -> None:
    secret = lab.folder / "secret"
    secret.write_text("the host's")
    secret.chmod(0o644)
    here = Path(__file__).resolve()
    for path in (secret, here):
        for way in ("", "/proc/1/root", "/proc/self/root", "/data/local/tmp/../../..", "/proc/self/cwd/.."):
            done = lab.shell(f"cat '{way}{path}'")
            assert done.returncode != 0, way
            assert done.stdout == b""


def test_neither_push_nor_pull_follows_a_symlink_out(lab: Lab, tmp_path: Path) -> None:
    secret = lab.folder / "secret2"
    secret.write_text("the host's")
    folder = lab.folder / "drop"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    lab.shell(
        f"cd /data/local/tmp && ln -sf {secret} abs && ln -sf ../../../../../../../../../..{secret} rel && "
        f"ln -sfn {folder} dir && ln -sfn / slash && ln -sfn /proc/self/root magic",
        check=True,
    )
    target = lab.folder / "home" / "pulled"
    for name in ("abs", "rel", f"slash{secret}", f"magic{secret}", "dir", f"../../../..{secret}"):
        done = lab.adb_run("pull", f"/data/local/tmp/{name}", str(target))
        assert done.returncode != 0, name
        assert not target.exists()
    source = lab.folder / "home" / "mine"
    source.write_text("the device's")
    for name in ("dir/file", f"slash{folder}/file", f"../../../../../..{folder}/file", f"magic{folder}/file"):
        lab.adb_run("push", str(source), f"/data/local/tmp/{name}")
    lab.adb_run("push", str(source), "/data/local/tmp/abs")
    assert secret.read_text() == "the host's"
    assert list(folder.iterdir()) == []
    lab.shell("cd /data/local/tmp && rm -rf abs rel dir slash magic")


def test_the_init_is_not_pulled(lab: Lab) -> None:
    target = lab.folder / "home" / "environ"
    for name in ("environ", "maps", "mem", "root/etc/passwd", "cwd", "fd/0", "exe"):
        assert lab.adb_run("pull", f"/proc/1/{name}", str(target)).returncode != 0
        assert not target.exists()


def test_only_its_own_processes_are_seen(lab: Lab) -> None:
    listed = lab.shell("ps").stdout.decode().splitlines()[1:]
    assert 1 < len(listed) < 8
    assert lab.shell(f"kill -0 {os.getpid()}").returncode != 0


def test_the_hosts_loopback_and_the_world_are_out_of_reach(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        assert lab.shell(f"nc -w 2 127.0.0.1 {server.getsockname()[1]} < /dev/null").returncode != 0
        with pytest.raises(TimeoutError):
            server.accept()
    assert lab.shell("ip route").stdout == b""
    names = lab.shell("ls /proc/sys/net/ipv4/conf").stdout.split()
    assert {b"lo", b"all", b"default"} == set(names)


def test_a_forward_reaches_the_device_and_not_the_host(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        remote = f"tcp:{server.getsockname()[1]}"
        port = int(lab.adb_run("forward", "tcp:0", remote, check=True).stdout)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as made, suppress(ConnectionResetError):
            assert made.recv(1) == b""
        with pytest.raises(TimeoutError):
            server.accept()
    lab.adb_run("forward", "--remove-all")


def test_a_full_device(lab: Lab) -> None:
    lab.shell("rm -rf /data/local/tmp/*", check=True)
    source = lab.folder / "home" / "too big"
    source.write_bytes(os.urandom(20_000_000))
    done = lab.adb_run("push", str(source), "/data/local/tmp/")
    assert done.returncode != 0
    assert b"No space left on device" in done.stdout + done.stderr
    assert lab.shell("ls -A /data/local/tmp").stdout.strip() == b""
    assert lab.shell("head -c 20000000 /dev/zero > /data/local/tmp/z").returncode != 0
    lab.shell("rm /data/local/tmp/z")
    source.write_bytes(os.urandom(10_000_000))
    lab.adb_run("push", str(source), "/data/local/tmp/", check=True)
    lab.shell("rm /data/local/tmp/*", check=True)


def test_the_same_users_server_with_another_key_gets_in(lab: Lab) -> None:
    """As one that was started under another HOME."""
    with laboratory(_adb(), user=lab.user, python=lab.python) as other:
        other.serial = lab.serial
        other.run([other.adb, "connect", lab.serial], timeout_s=30, check=True)
        assert other.shell("echo in").stdout == b"in\n"
        other.run([other.adb, "disconnect", lab.serial])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_another_users_key_gets_no_shell(lab: Lab) -> None:
    user = NOBODY if lab.user is None else None
    with laboratory(_adb(), user=user, python=shutil.which("true")) as stranger:  # which starts no device
        stranger.serial = lab.serial
        said = stranger.run([stranger.adb, "connect", lab.serial], timeout_s=30)
        assert b"failed to authenticate" in said.stdout + said.stderr
        done = stranger.shell("id")
        assert done.returncode != 0
        assert b"unauthorized" in done.stderr
        assert b"uid" not in done.stdout
    assert lab.shell("echo still here").stdout == b"still here\n"


def test_the_daemon_listens_on_loopback_only(lab: Lab) -> None:
    port = int(lab.serial.rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no other address")
        own = probe.getsockname()[0]
    with pytest.raises(OSError), socket.create_connection((own, port), timeout=2):
        pass


def test_killed_it_leaves_nothing_and_starts_again(lab: Lab) -> None:
    abi = _abi(lab)
    port = str(free_port())
    device = lab.start("--abi", abi, "--name", "mortal", "--storage", "8M", "--port", port)
    processes = tree(device["pid"])
    client = lab.spawn("shell", "echo begun; exec sleep 1000")
    assert client.stdout is not None
    assert client.stdout.readline() == b"begun\n"
    processes |= tree(device["pid"])
    assert len(processes) >= 4
    os.kill(device["pid"], signal.SIGKILL)
    wait_for(lambda: not alive(processes))
    client.communicate(timeout=60)
    wait_for(lambda: lab.state_of(device["serial"]) != "device")
    assert "mortal" not in lab.names()
    again = lab.start("--abi", abi, "--name", "mortal", "--storage", "8M", "--port", port)
    assert again["serial"] == device["serial"]
    assert lab.shell("echo again").stdout == b"again\n"
    processes = tree(again["pid"])
    assert lab.mobilekit("device", "virtual", "stop", "mortal").returncode == 0
    assert not alive(processes)
    assert lab.state_of(device["serial"]) == ""
    assert not (lab.folder / "state/virtual/mortal").exists()


def _abi(lab: Lab) -> str:
    return lab.shell("getprop ro.product.cpu.abi").stdout.decode().strip()


def test_two_devices_do_not_see_each_other(lab: Lab) -> None:
    first, abi = lab.serial, _abi(lab)
    second = lab.start("--abi", abi, "--name", "neighbour", "--storage", "8M")["serial"]
    assert first != second
    lab.shell("echo two > /data/local/tmp/mark", check=True)
    lab.serial = first
    assert lab.shell("cat /data/local/tmp/mark").returncode != 0
    assert lab.names() == {"jail", "neighbour"}
    done = lab.mobilekit("device", "virtual", "start", "--abi", abi, "--name", "neighbour")
    assert done.returncode == 2
    assert b"runs already" in done.stderr
    assert lab.mobilekit("device", "virtual", "stop").returncode == 2
    assert lab.mobilekit("device", "virtual", "stop", "neighbour").returncode == 0
    assert lab.mobilekit("device", "virtual", "stop", "neighbour").returncode == 2


def test_data_may_be_kept(lab: Lab) -> None:
    options = ("--abi", _abi(lab), "--name", "keeper", "--storage", "8M")
    lab.start(*options)
    lab.shell("mkdir -p /data/local/tmp/d; echo kept > '/data/local/tmp/d/a file'", check=True)
    assert lab.mobilekit("device", "virtual", "stop", "keeper", "--keep").returncode == 0
    lab.start(*options, "--keep")
    assert lab.shell("cat '/data/local/tmp/d/a file'").stdout == b"kept\n"
    assert lab.mobilekit("device", "virtual", "stop", "keeper").returncode == 0
    lab.start(*options)
    assert lab.shell("ls -A /data/local/tmp").stdout == b""


def test_a_port_in_use_is_told(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        done = lab.mobilekit("device", "virtual", "start", "--abi", _abi(lab), "--name", "x", "--port", port)
    assert done.returncode == 4
    assert b"port" in done.stderr
    assert b"Traceback" not in done.stderr
    assert not (lab.folder / "state/virtual/x").exists()


@pytest.mark.parametrize("delay_s", [0, 0.15, 0.3, 0.45, 0.6, 0.9])
def test_ctrl_c_during_start_leaves_nothing(delay_s: float) -> None:
    need_sandbox()
    with laboratory(_adb()) as own, orphans_come_here():
        own.run([own.adb, "start-server"])
        before = tree(os.getpid())
        command = [own.python, "-m", "mobilekit", "device", "virtual", "start", "--name", "hasty"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=own.env)
        # Python's own start, which says and returns what it likes when interrupted, ends before ours handles signals.
        wait_for(lambda: process.poll() is not None or handles(process.pid, signal.SIGTERM))
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=200)[0]
        assert process.returncode in (0, 130), said
        assert b"Traceback" not in said
        listed = own.devices()
        if process.returncode == 0 or listed:  # it was done already
            assert [each["name"] for each in listed] == ["hasty"]
            assert own.state_of(listed[0]["serial"]) == "device"
            return
        wait_for(lambda: not alive(tree(os.getpid()) - before))
        assert not (own.folder / "state/virtual/hasty").exists()


def test_without_user_namespaces_it_says_what_to_do(tmp_path: Path) -> None:
    """A machine that forbids them, made by a user namespace whose limit is zero."""
    need_sandbox()
    inside = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    with laboratory(_adb()) as own:
        start = [own.python, "-m", "mobilekit", "device", "virtual", "start", "--name", "barred"]
        barred = ["unshare", "-Ur", "sh", "-c", inside, "sh", *start]
        done = own.run([*barred, "--mode", "userns"])
        assert done.returncode == 4
        assert b"max_user_namespaces" in done.stderr
        assert b"Traceback" not in done.stderr
        assert not (own.folder / "state/virtual/barred").exists()
        if shutil.which("proot"):
            done = own.run(barred)
            assert done.returncode == 0, done.stderr
            assert b"NOT A SANDBOX" in done.stderr
            assert own.devices()[0]["mode"] == "proot"


def test_root_of_a_container_that_has_no_other_user() -> None:
    need_sandbox()
    with laboratory(_adb()) as own:
        command = [own.python, "-m", "mobilekit", "device", "virtual", "start", "--name", "nested"]
        assert own.run(["unshare", "-Ur", *command]).returncode == 0
        own.serial = own.devices()[0]["serial"]
        assert own.devices()[0]["mode"] == "userns"
        assert own.shell("id -u").stdout == b"2000\n"
        assert own.shell("mount -t tmpfs none /mnt").returncode != 0


def test_a_broken_dev_null_is_told() -> None:
    """It happens: a program run by root replaced the device by a file. Here a mount namespace does it."""
    need_sandbox()
    with laboratory(_adb()) as own:
        (own.folder / "file").touch()
        inside = 'mount --bind "$1" /dev/null; shift; exec "$@"'
        start = [own.python, "-m", "mobilekit", "device", "virtual", "start", "--mode", "userns", "--name", "null"]
        done = own.run(["unshare", "-Urm", "sh", "-c", inside, "sh", str(own.folder / "file"), *start])
        assert done.returncode == 4
        assert b"/dev/null" in done.stderr
        assert b"Traceback" not in done.stderr
        assert own.names() == set()
