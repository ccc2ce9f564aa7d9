"""The file service, spoken to over a real connection."""

from __future__ import annotations

import os
import struct
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.device.virtual.virtual_host import Host, HostStream, PrivateKey, serving


def _request(kind: bytes, path: str | bytes) -> bytes:
    data = os.fsencode(path)
    return kind + struct.pack("<I", len(data)) + data


def _data(content: bytes, step: int = 65536) -> bytes:
    parts = (content[at : at + step] for at in range(0, len(content), step))
    return b"".join(b"DATA" + struct.pack("<I", len(part)) + part for part in parts)


def _answer(stream: HostStream) -> tuple[bytes, bytes]:
    kind, length = struct.unpack("<4sI", stream.read(8))
    return kind, stream.read(length)


def _push(
    stream: HostStream, path: str, content: bytes, *, mode: int = 0o100644, mtime: int = 1000
) -> tuple[bytes, bytes]:
    done = b"DONE" + struct.pack("<I", mtime)
    stream.write(_request(b"SEND", f"{path},{mode}") + _data(content) + done)
    return _answer(stream)


def _pull(stream: HostStream, path: str) -> bytes:
    stream.write(_request(b"RECV", path))
    content = b""
    while True:
        kind, length = struct.unpack("<4sI", stream.read(8))
        if kind == b"DONE":
            assert length == 0
            return content
        if kind == b"FAIL":
            raise OSError(stream.read(length).decode())
        assert kind == b"DATA"
        assert length <= 65536
        content += stream.read(length)


@pytest.fixture
def sync(host: Host) -> HostStream:
    return host.open("sync:")


@settings(max_examples=25)
@given(
    content=st.binary(max_size=200_000), step=st.integers(1, 70_000), cuts=st.lists(st.integers(1, 99_999), max_size=4)
)
def test_a_file_comes_back_however_it_is_cut(
    sync: HostStream, root: Path, content: bytes, step: int, cuts: list[int]
) -> None:
    message = _request(b"SEND", "/data/file,33188") + _data(content, min(step, 65536) if len(content) < 5000 else 65536)
    message += b"DONE" + struct.pack("<I", 1234)
    borders = sorted({0, *(cut for cut in cuts if cut < len(message)), len(message)})
    for start, end in pairwise(borders):
        sync.write(message[start:end])
    assert _answer(sync) == (b"OKAY", b"")
    assert (root / "data/file").read_bytes() == content
    assert (root / "data/file").stat().st_mtime == 1234
    assert _pull(sync, "/data/file") == content


@settings(max_examples=40)
@given(st.binary(min_size=1, max_size=200))
def test_random_requests_never_reach_the_host_or_hang(port: int, key: PrivateKey, root: Path, data: bytes) -> None:
    host = Host(port)
    with host.socket:
        host.log_in(key)
        stream = host.open("sync:")
        try:
            stream.write(data + _request(b"QUIT", ""))
            stream.close()
            while True:
                host.receive()
                break
        except EOFError:
            pass
    assert (root.parent / "secret").read_text() == "the host's"


def test_send_v2_and_recv_v2(sync: HostStream, root: Path) -> None:
    sync.write(_request(b"SND2", "/data/v2") + struct.pack("<4sII", b"SND2", 0o100755, 0) + _data(b"abc"))
    sync.write(b"DONE" + struct.pack("<I", 5))
    assert _answer(sync) == (b"OKAY", b"")
    assert (root / "data/v2").stat().st_mode & 0o777 == 0o755
    sync.write(_request(b"RCV2", "/data/v2") + struct.pack("<4sI", b"RCV2", 0))
    assert sync.read(11) == b"DATA\3\0\0\0abc"
    assert sync.read(8) == b"DONE\0\0\0\0"


def test_compression_is_refused_in_words(sync: HostStream) -> None:
    sync.write(_request(b"SND2", "/data/z") + struct.pack("<4sII", b"SND2", 0o100644, 1) + _data(b"abc"))
    sync.write(b"DONE" + bytes(4))
    assert _answer(sync) == (b"FAIL", b"compression is not supported")
    assert _push(sync, "/data/after", b"x")[0] == b"OKAY"


def test_a_name_with_commas_and_spaces(sync: HostStream, root: Path) -> None:
    assert _push(sync, "/data/a, b,c", b"x")[0] == b"OKAY"
    assert (root / "data/a, b,c").exists()


def test_a_symlink_is_made_and_points_inside(sync: HostStream, root: Path) -> None:
    assert _push(sync, "/data/link", b"/etc/passwd", mode=0o120777)[0] == b"OKAY"
    assert (root / "data/link").readlink() == Path("/etc/passwd")
    assert _pull(sync, "/data/link") == b"shell\n"


@pytest.mark.parametrize("path", ["/data/out/secret", "/../../secret", "/../secret", "/data/../../secret", "secret"])
def test_pull_and_stat_find_nothing_of_the_host(sync: HostStream, root: Path, path: str) -> None:
    (root / "data/out").symlink_to(root.parent)
    with pytest.raises(OSError, match="No such file"):
        _pull(sync, path)
    for kind in (b"STA2", b"LST2"):
        sync.write(_request(kind, path))
        assert struct.unpack_from("<4sI", sync.read(72)) == (kind, 2)
    sync.write(_request(b"STAT", path))
    assert sync.read(16) == b"STAT" + bytes(12)
    for kind, size in ((b"LIST", 20), (b"LIS2", 76)):
        sync.write(_request(kind, str(Path(path).parent / "out")))
        assert sync.read(size) == b"DONE" + bytes(size - 4)


def test_push_does_not_reach_the_host(sync: HostStream, root: Path) -> None:
    (root / "data/out").symlink_to(root.parent)
    assert _push(sync, "/data/out/secret", b"mine")[0] == b"FAIL"
    assert _push(sync, "/../../secret", b"mine")[0] == b"OKAY"
    assert (root / "secret").read_bytes() == b"mine"
    assert (root.parent / "secret").read_text() == "the host's"


def test_stat_and_list_tell_the_truth(sync: HostStream, root: Path) -> None:
    (root / "data/f").write_bytes(b"12345")
    os.utime(root / "data/f", (10, 20))
    sync.write(_request(b"STAT", "/data/f"))
    kind, mode, size, mtime = struct.unpack("<4sIII", sync.read(16))
    assert (kind, mode & 0o170000, size, mtime) == (b"STAT", 0o100000, 5, 20)
    sync.write(_request(b"LIS2", "/data"))
    found = {}
    while True:
        entry = struct.unpack("<4sIQQIIIIQqqqI", sync.read(76))
        if entry[0] == b"DONE":
            assert entry[1:] == (0,) * 12
            break
        assert entry[0] == b"DNT2"
        found[sync.read(entry[12])] = entry
    assert set(found) == {b".", b"..", b"f", b"local"}
    assert found[b"f"][8:11] == (5, 10, 20)
    assert found[b"f"][6:8] == (2000, 2000)


def test_a_host_that_goes_away_leaves_no_half_file(port: int, key: PrivateKey, root: Path) -> None:
    def wait_until(parts: bool) -> None:
        """The daemon writes in its own time: until its half file is there, or is gone."""
        deadline = time.monotonic() + 20
        while any(path.name != "local" for path in (root / "data").iterdir()) != parts:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    host = Host(port)
    with host.socket:
        host.log_in(key)
        stream = host.open("sync:")
        stream.write(_request(b"SEND", "/data/big,33188") + _data(bytes(300_000)))
        wait_until(parts=True)
    wait_until(parts=False)


def test_a_full_device_says_so_and_keeps_nothing(root: Path, key: PrivateKey) -> None:
    with serving(root, key, quota=100_000) as port:
        host = Host(port)
        with host.socket:
            host.log_in(key)
            stream = host.open("sync:")
            kind, text = _push(stream, "/data/big", bytes(500_000))
            assert kind == b"FAIL"
            assert b"No space left on device" in text
            assert [path.name for path in (root / "data").iterdir()] == ["local"]
            assert _push(stream, "/data/small", bytes(1000))[0] == b"OKAY"


def test_a_path_that_is_too_long_ends_the_service(sync: HostStream) -> None:
    sync.write(b"STAT" + struct.pack("<I", 5000))
    assert _answer(sync) == (b"FAIL", b"the path is too long")


def test_a_chunk_above_the_limit_ends_the_service(sync: HostStream, root: Path) -> None:
    sync.write(_request(b"SEND", "/data/f,33188") + b"DATA" + struct.pack("<I", 65537))
    assert _answer(sync)[0] == b"FAIL"
    with pytest.raises(EOFError):
        sync.read(1)
    assert [path.name for path in (root / "data").iterdir()] == ["local"]


def test_a_folder_cannot_be_overwritten(sync: HostStream, root: Path) -> None:
    assert _push(sync, "/data/local", b"x")[0] == b"FAIL"
    assert [path.name for path in (root / "data").iterdir()] == ["local"]


def test_large_echo_keeps_the_flow_going(host: Host) -> None:
    stream = host.open("echo:")
    block = os.urandom(1024 * 1024)
    for _ in range(3):
        stream.write(block)
        assert stream.read(len(block)) == block
