"""The store on the device: nothing is sent twice, the quota holds, and a failure leaves no half file under its name."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing

import pytest

from mobilekit.device.adb import AdbDevice
from mobilekit.device.store import ROOT, Store, clean
from mobilekit.errors import AdbError, DeviceLostError, DeviceStorageError, HarnessError

MB = 1_000_000


@pytest.fixture
def make(tmp_path):
    def make(name: str, size: int = 1000) -> dict:
        path = tmp_path / name
        path.write_bytes(os.urandom(size))
        return {hashlib.sha256(path.read_bytes()).hexdigest(): path}

    return make


def _held(server):
    folder = server.host_path(f"{ROOT}/store")
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def _pushes(server):
    return sum(service == "sync:" for service in server.log)


def test_only_what_is_missing_is_pushed(fake_adb, make):
    server = fake_adb()
    store = Store(AdbDevice("fake-1"))
    first, second = make("a"), make("b")
    paths = store.ensure(first)
    assert _pushes(server) == 1
    ((sha, local),) = first.items()
    assert server.host_path(paths[sha]).read_bytes() == local.read_bytes()
    store.ensure({**first, **second})
    assert _pushes(server) == 2
    log_length = len(server.log)
    store.ensure({**first, **second})
    assert _pushes(server) == 2
    assert sum(service.startswith("shell") for service in server.log[log_length:]) == 1


def test_a_file_of_the_wrong_size_is_sent_again(fake_adb, make):
    server = fake_adb()
    store = Store(AdbDevice("fake-1"))
    files = make("a")
    ((sha, local),) = files.items()
    there = server.host_path(store.ensure(files)[sha])
    there.write_bytes(b"cut off")
    store.ensure(files)
    assert there.read_bytes() == local.read_bytes()


def test_executables_get_their_mode(fake_adb, make):
    server = fake_adb()
    program, data = make("program"), make("data")
    paths = Store(AdbDevice("fake-1")).ensure({**program, **data}, executable=set(program))
    modes = [server.host_path(paths[sha]).stat().st_mode & 0o777 for files in (program, data) for sha in files]
    assert modes == [0o755, 0o644]


def test_the_longest_unused_go_first_and_never_what_this_run_needs(fake_adb, make):
    server = fake_adb()
    store = Store(AdbDevice("fake-1"), quota_bytes=3 * MB)
    old, middle, young = (make(name, MB) for name in ("old", "middle", "young"))
    for age, files in ((300, old), (200, middle), (100, young)):
        for sha, remote in store.ensure(files).items():
            path = server.host_path(remote)
            os.utime(path, (path.stat().st_mtime - age,) * 2)
            assert sha
    store.ensure(old)  # used again: now the youngest
    new = make("new", MB)
    store.ensure(new)
    assert _held(server) == {*old, *young, *new}
    everything = {**middle, **young, **new}
    store.ensure(everything)
    assert _held(server) == set(everything)


def test_more_than_the_quota_is_refused_before_anything_happens(fake_adb, make):
    server = fake_adb()
    store = Store(AdbDevice("fake-1"), quota_bytes=2 * MB)
    small = make("small", MB)
    store.ensure(small)
    with pytest.raises(DeviceStorageError, match=r"3\.0 MB must be pushed.*quota there is 2\.0 MB"):
        store.ensure(make("large", 3 * MB))
    assert _held(server) == set(small)
    assert _pushes(server) == 1


def test_more_than_the_device_has_free_is_refused_before_anything_happens(fake_adb, make):
    server = fake_adb()
    tools = server.root / "tools"
    tools.mkdir()
    df = tools / "df"
    df.write_text(
        "#!/bin/sh\necho 'Filesystem 1024-blocks Used Available Capacity Mounted'\necho '/dev/x 9 9 17000 99% /'\n"
    )
    df.chmod(0o755)
    server.path = f"{tools}:{os.environ['PATH']}"
    with pytest.raises(DeviceStorageError, match=r"it has 17\.4 MB free"):
        Store(AdbDevice("fake-1")).ensure(make("large", 3 * MB))
    assert _pushes(server) == 0
    Store(AdbDevice("fake-1")).ensure(make("small", 1000))


def test_a_push_that_breaks_off_leaves_no_file(fake_adb, make):
    server = fake_adb(fault=lambda service, done: "close" if done >= 131072 else None)
    with pytest.raises(DeviceLostError):
        Store(AdbDevice("fake-1")).ensure(make("large", MB))
    assert not any(not name.startswith(".") for name in _held(server))


def test_left_overs_of_a_broken_push_are_swept_up_later(fake_adb, make):
    server = fake_adb()
    store = Store(AdbDevice("fake-1"))
    store.ensure(make("a"))
    folder = server.host_path(f"{ROOT}/store")
    for name, age in ((".x.1.part", 7200), (".x.2.part", 10)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, ((folder / name).stat().st_mtime - age,) * 2)
    store.ensure(make("b"))
    assert {name for name in _held(server) if name.startswith(".")} == {".x.2.part"}


def test_clean_removes_everything_and_says_how_much(fake_adb, make):
    server = fake_adb()
    device = AdbDevice("fake-1")
    Store(device).ensure({**make("a", 1000), **make("b", 500)})
    assert clean(device) == 1500
    assert not server.host_path(ROOT).exists()
    assert clean(device) == 0


def test_clean_removes_a_file_that_stands_in_the_way(fake_adb):
    server = fake_adb()
    server.host_path(ROOT).parent.mkdir(parents=True, exist_ok=True)
    server.host_path(ROOT).write_bytes(b"what is this")
    assert clean(AdbDevice("fake-1")) == 12
    assert not server.host_path(ROOT).exists()


@pytest.mark.parametrize(
    ("said", "helps"), [("Permission denied", "another user"), ("Read-only file system", "mounted read-only")]
)
def test_a_push_that_is_refused_says_what_helps(fake_adb, make, said, helps):
    fake_adb(fault=lambda service, done: said if service.startswith("sync") else None)
    with pytest.raises(AdbError, match=said) as caught:
        Store(AdbDevice("fake-1")).ensure(make("a"))
    assert helps in caught.value.hint


def test_a_program_that_may_not_run_says_what_helps(fake_adb):
    server = fake_adb()
    program = server.host_path("/data/local/tmp/program")
    program.write_text("x")
    with (
        closing(AdbDevice("fake-1").spawn(["/data/local/tmp/program"])) as process,
        pytest.raises(HarnessError, match="exit code 126") as caught,
    ):
        process.readline(20)
    assert "noexec" in caught.value.hint
