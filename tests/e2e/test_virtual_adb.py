"""Real adb (the system's and adbutils' own) and adbutils take the virtual device for an Android device."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import adbutils
import pytest

from tests.e2e.virtual_lab import Lab, adb_programs, laboratory, need_sandbox

pytestmark = pytest.mark.device


@pytest.fixture(scope="module", params=sorted(adb_programs().items()), ids=lambda item: item[0])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    need_sandbox()
    with laboratory(request.param[1]) as made:
        made.start("--name", "e2e", "--cpu", "cortex-a53", "--storage", "256M")
        yield made


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "fifty"
    path.write_bytes(os.urandom(50_000_000))
    return path


def test_it_is_listed_with_its_model(lab: Lab) -> None:
    line = lab.run([lab.adb, "devices", "-l"]).stdout.decode()
    assert f"{lab.serial}" in line
    assert "model:mobilekit_virtual_cortex_a53" in line


def test_the_features_are_those_of_the_facts(lab: Lab) -> None:
    features = lab.adb_run("features").stdout.decode().split()
    # An older adb leaves out what it does not know.
    assert {"shell_v2", "cmd", "stat_v2", "ls_v2", "fixed_push_mkdir"} == set(features) - {"sendrecv_v2"}


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_codes(lab: Lab, code: int) -> None:
    assert lab.shell(f"exit {code}").returncode == code


def test_a_signal_shows_as_the_shell_says_it(lab: Lab) -> None:
    assert lab.shell("kill -9 $$").returncode == 137
    assert lab.shell("kill -SEGV $$").returncode == 139


def test_stderr_is_separate(lab: Lab) -> None:
    done = lab.shell("echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_the_first_shell_protocol_merges_them(lab: Lab) -> None:
    done = lab.adb_run("shell", "-x", "echo out; echo err >&2; exit 4")
    assert done.stdout == b"out\nerr\n"
    assert done.returncode == 0


def test_stdin_round_trip_ends(lab: Lab) -> None:
    data = os.urandom(1_000_000)
    assert lab.shell("cat", stdin=data, timeout_s=120).stdout == data


def test_stdin_of_a_command_that_does_not_read_it(lab: Lab) -> None:
    done = lab.shell("true; exit 3", stdin=bytes(3_000_000), timeout_s=120)
    assert done.returncode == 3


def test_exec_out_is_binary_clean(lab: Lab) -> None:
    lab.adb_run("shell", "head -c 2000000 /dev/urandom > /data/local/tmp/random", check=True)
    sums = lab.shell("md5sum /data/local/tmp/random").stdout.split()[0].decode()
    data = lab.adb_run("exec-out", "cat /data/local/tmp/random").stdout
    assert len(data) == 2_000_000
    assert hashlib.md5(data).hexdigest() == sums


def test_exec_in(lab: Lab) -> None:
    data = os.urandom(500_000)
    lab.adb_run("exec-in", "cat > /data/local/tmp/in", stdin=data)
    deadline = time.monotonic() + 60
    while lab.adb_run("exec-out", "cat /data/local/tmp/in").stdout != data:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_android_is_where_it_should_be(lab: Lab) -> None:
    done = lab.shell("id -un; echo $KSH_VERSION; pwd; uname -m; command -v ls; echo $SECRET_OF_THE_HOST")
    user, ksh, folder, machine, ls, secret = done.stdout.decode().split("\n")[:6]
    assert (user, folder, machine, ls, secret) == ("shell", "/", "aarch64", "/system/bin/ls", "")
    assert "MIRBSD KSH" in ksh
    assert lab.shell("getprop ro.product.cpu.abi").stdout == b"arm64-v8a\n"
    assert lab.shell("getprop ro.mobilekit.virtual").stdout == b"1\n"
    assert lab.shell("getprop ro.no.such.thing").stdout == b"\n"
    assert b"[ro.product.manufacturer]: [mobilekit]" in lab.shell("getprop").stdout
    assert b"CPU part\t: 0xd03" in lab.shell("cat /proc/cpuinfo").stdout


def test_a_big_file_there_and_back(lab: Lab, big: Path, tmp_path: Path) -> None:
    lab.adb_run("push", str(big), "/data/local/tmp/fifty", check=True)
    wanted = hashlib.md5(big.read_bytes()).hexdigest()
    assert lab.shell("md5sum /data/local/tmp/fifty").stdout.split()[0].decode() == wanted
    lab.adb_run("pull", "/data/local/tmp/fifty", str(tmp_path / "back"), check=True)
    assert hashlib.md5((tmp_path / "back").read_bytes()).hexdigest() == wanted
    lab.shell("rm /data/local/tmp/fifty", check=True)


def test_push_keeps_mode_and_time(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("#!/system/bin/sh\necho ran $1\n")
    (tmp_path / "run.sh").chmod(0o755)
    os.utime(tmp_path / "run.sh", (1_600_000_000, 1_600_000_000))
    lab.adb_run("push", str(tmp_path / "run.sh"), "/data/local/tmp/deep/er/run.sh", check=True)
    assert lab.shell("/data/local/tmp/deep/er/run.sh well").stdout == b"ran well\n"
    assert lab.shell("stat -c '%a %Y' /data/local/tmp/deep/er/run.sh").stdout == b"755 1600000000\n"


def test_folders_and_names_with_spaces(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "a folder"
    (source / "sub (1)").mkdir(parents=True)
    (source / "sub (1)" / "naïve 'file'.txt").write_text("x")
    (source / "empty file").write_text("")
    lab.adb_run("push", str(source), "/data/local/tmp/", check=True)
    lab.adb_run("pull", "/data/local/tmp/a folder", str(tmp_path / "back"), check=True)
    assert (tmp_path / "back/sub (1)/naïve 'file'.txt").read_text() == "x"
    assert (tmp_path / "back/empty file").read_text() == ""


def test_push_sync_sends_only_what_changed(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "tosync"
    source.mkdir()
    for name in ("one", "two"):
        (source / name).write_text(name)
    target = ("push", "--sync", str(source), "/data/local/tmp/")
    first, second = lab.adb_run(*target, check=True), lab.adb_run(*target, check=True)
    assert b"2 files pushed, 0 skipped" in first.stdout + first.stderr
    assert b"0 files pushed, 2 skipped" in second.stdout + second.stderr
    (source / "two").write_text("changed")
    third = lab.adb_run(*target, check=True)
    assert b"1 file pushed, 1 skipped" in third.stdout + third.stderr
    assert lab.shell("cat /data/local/tmp/tosync/two").stdout == b"changed"


def test_push_where_nothing_may_be_written(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    for target in ("/system/bin/f", "/f", "/proc/f", "/data/f"):
        done = lab.adb_run("push", str(tmp_path / "f"), target)
        assert done.returncode != 0
        assert (
            b"Read-only file system" in done.stderr + done.stdout
            or b"denied" in done.stderr + done.stdout
            or (b"No such file" in done.stderr + done.stdout)
        )


def test_pull_of_what_is_not_there(lab: Lab, tmp_path: Path) -> None:
    done = lab.adb_run("pull", "/data/local/tmp/nothing", str(tmp_path))
    assert done.returncode != 0
    assert b"No such file" in done.stderr + done.stdout


def _forwarded(lab: Lab, remote: str) -> int:
    return int(lab.adb_run("forward", "tcp:0", remote, check=True).stdout)


def _exchange(port: int, data: bytes) -> bytes:
    """Send, and read until the other side closes; tries until the device listens."""
    deadline = time.monotonic() + 60
    while True:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as made:
            made.sendall(data)
            answer = b""
            try:
                while part := made.recv(65536):
                    answer += part
            except ConnectionResetError:
                pass
        if answer or time.monotonic() > deadline:
            return answer
        time.sleep(0.1)


def test_forward_to_a_port(lab: Lab) -> None:
    script = "#!/system/bin/sh\nread line; echo got $line\n"
    lab.shell("cat > /data/local/tmp/answer; chmod 755 /data/local/tmp/answer", stdin=script.encode(), check=True)
    server = lab.spawn("shell", "nc -l -p 7777 -e /data/local/tmp/answer")
    try:
        port = _forwarded(lab, "tcp:7777")
        assert _exchange(port, b"hello\n") == b"got hello\n"
        lab.adb_run("forward", "--remove", f"tcp:{port}", check=True)
    finally:
        server.kill()
        server.communicate()


def test_forward_to_nobody_is_closed(lab: Lab) -> None:
    for remote in ("tcp:7778", "localabstract:nobody", "localfilesystem:/data/local/tmp/nobody"):
        with socket.create_connection(("127.0.0.1", _forwarded(lab, remote)), timeout=10) as made:
            made.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert made.recv(1) == b""
    lab.adb_run("forward", "--remove-all", check=True)


def test_forward_and_reverse_through_abstract_and_file_sockets(lab: Lab) -> None:
    """busybox has no client for unix sockets: the device's end is a reverse, whose other end is the host."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        own = server.getsockname()[1]

        def answer() -> None:
            for _ in range(2):
                made, _ = server.accept()
                with made:
                    made.sendall(b"echo " + made.recv(100))

        thread = threading.Thread(target=answer)
        thread.start()
        for remote in ("localabstract:mobilekit-test", "localfilesystem:/data/local/tmp/socket"):
            lab.adb_run("reverse", remote, f"tcp:{own}", check=True)
            assert _exchange(_forwarded(lab, remote), b"hi") == b"echo hi"
        thread.join(120)
    lab.adb_run("reverse", "--remove-all", check=True)
    lab.adb_run("forward", "--remove-all", check=True)


def test_reverse(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        lab.adb_run("reverse", "tcp:9123", f"tcp:{server.getsockname()[1]}", check=True)
        assert b"tcp:9123" in lab.adb_run("reverse", "--list").stdout
        # nc's input must not end before the answer has come: the end of one direction ends the connection.
        lab.shell("rm -f /data/local/tmp/heard", check=True)
        wait = "while [ ! -e /data/local/tmp/heard ]; do sleep 0.1; done"
        client = lab.spawn("shell", f"(echo from the device; {wait}) | nc 127.0.0.1 9123")
        made, _ = server.accept()
        with made:
            assert made.recv(100) == b"from the device\n"
            made.sendall(b"from the host\n")
            assert client.stdout is not None
            assert client.stdout.readline() == b"from the host\n"
        lab.shell("touch /data/local/tmp/heard", check=True)
        assert client.communicate(timeout=60)[0] == b""
        lab.adb_run("reverse", "--remove", "tcp:9123", check=True)
        assert b"9123" not in lab.adb_run("reverse", "--list").stdout
        assert lab.adb_run("reverse", "--remove", "tcp:9123").returncode != 0
        assert lab.shell("nc -w 1 127.0.0.1 9123 < /dev/null").returncode != 0


def test_reverse_with_a_port_of_the_devices_choice(lab: Lab) -> None:
    port = int(lab.adb_run("reverse", "tcp:0", "tcp:9", check=True).stdout)
    assert f"tcp:{port}".encode() in lab.adb_run("reverse", "--list").stdout
    lab.adb_run("reverse", "--remove-all", check=True)
    assert lab.adb_run("reverse", "--list").stdout.strip() == b""


def test_an_interactive_shell(lab: Lab) -> None:
    master, slave = pty.openpty()
    env = {**lab.env, "TERM": "xterm"}
    process = subprocess.Popen([lab.adb, "-s", lab.serial, "shell"], stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    seen = b""

    def until(text: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while text not in seen:
            assert select.select([master], [], [], max(0, deadline - time.monotonic()))[0], seen
            seen += os.read(master, 4096)

    try:
        until(b"$ ")
        os.write(master, b"tty; echo $TERM-$((40+2))\n")
        until(b"xterm-42")
        assert b"/dev/pts/" in seen
        os.write(master, b"sleep 100\n")
        time.sleep(0.5)
        seen = b""
        os.write(master, b"\x03")
        until(b"$ ")
        os.write(master, b"exit 5\n")
        assert process.wait(60) == 5
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_command_ends_when_its_host_goes(lab: Lab) -> None:
    client = lab.spawn("shell", "echo begun; exec sleep 54321")
    assert client.stdout is not None
    assert client.stdout.readline() == b"begun\n"
    client.kill()
    client.communicate()
    deadline = time.monotonic() + 60
    while b"54321" in lab.shell("ps | grep -v grep | grep 54321").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_push_cut_in_the_middle_leaves_nothing(lab: Lab, big: Path) -> None:
    lab.shell("rm -rf /data/local/tmp/cut; mkdir /data/local/tmp/cut", check=True)
    for _ in range(3):
        client = lab.spawn("push", str(big), "/data/local/tmp/cut/file")
        time.sleep(0.02)
        client.kill()
        client.communicate()
    deadline = time.monotonic() + 60
    while lab.shell("ls -A /data/local/tmp/cut").stdout.strip() not in (b"", b"file"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if lab.shell("ls -A /data/local/tmp/cut").stdout.strip():
        assert int(lab.shell("stat -c %s /data/local/tmp/cut/file").stdout) == big.stat().st_size
    lab.shell("rm -rf /data/local/tmp/cut")


def test_many_commands_at_once(lab: Lab) -> None:
    clients = [lab.spawn("shell", f"cat /system/build.prop > /dev/null; echo {n}; exit {n}") for n in range(8)]
    for number, client in enumerate(clients):
        assert client.communicate(timeout=60)[0] == f"{number}\n".encode()
        assert client.returncode == number


def test_a_storm_of_output_arrives_whole(lab: Lab) -> None:
    done = lab.shell("head -c 20000000 /dev/zero; head -c 3000000 /dev/zero >&2", timeout_s=60)
    assert (len(done.stdout), len(done.stderr)) == (20_000_000, 3_000_000)


def test_adbutils(lab: Lab, tmp_path: Path) -> None:
    client = adbutils.AdbClient(port=int(lab.env["ANDROID_ADB_SERVER_PORT"]))
    device = client.device(lab.serial)
    assert device.shell("echo hi") == "hi"
    result = device.shell2("echo out; echo err >&2; exit 6", v2=True)
    assert (result.returncode, result.stdout, result.stderr) == (6, "out\n", "err\n")
    assert device.prop.model == "mobilekit virtual cortex-a53"
    data = os.urandom(300_000)
    (tmp_path / "f").write_bytes(data)
    device.sync.push(tmp_path / "f", "/data/local/tmp/by adbutils")
    assert device.sync.read_bytes("/data/local/tmp/by adbutils") == data
    assert device.sync.stat("/data/local/tmp/by adbutils").size == len(data)
    assert "by adbutils" in [entry.path for entry in device.sync.list("/data/local/tmp")]
    device.sync.pull("/data/local/tmp/by adbutils", tmp_path / "g")
    assert (tmp_path / "g").read_bytes() == data
