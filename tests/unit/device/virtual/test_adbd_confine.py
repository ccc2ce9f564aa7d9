"""No path of the device leads out of its root."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilekit.device.virtual.confine import Root


@pytest.fixture
def confined(root: Path) -> Iterator[Root]:
    made = Root(os.open(root, os.O_PATH | os.O_DIRECTORY))
    yield made
    made.close()


def _content(confined: Root, path: str) -> str:
    fd = confined.open_file(path)
    with os.fdopen(fd) as file:
        return file.read()


def test_an_absolute_symlink_ends_in_the_root(confined: Root, root: Path) -> None:
    (root / "link").symlink_to("/etc/passwd")
    assert _content(confined, "/link") == "shell\n"
    assert confined.stat("/link").st_size == 6


def test_an_absolute_symlink_to_a_file_of_the_host_finds_nothing(confined: Root, root: Path, tmp_path: Path) -> None:
    (root / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(FileNotFoundError):
        confined.open_file("/link")
    with pytest.raises(FileNotFoundError):
        confined.stat("/link")
    assert confined.lstat("/link").st_size > 0


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["..", ".", "", "data", "etc", "up", "out"]), min_size=1, max_size=12))
def test_no_walk_reaches_the_secret(confined: Root, root: Path, parts: list[str]) -> None:
    for name, target in (("up", "../.."), ("out", str(root.parent))):
        if not (root / "data" / name).is_symlink():
            (root / "data" / name).symlink_to(target)
            (root / name).symlink_to(target)
    for prefix in ("/", ""):
        path = prefix + "/".join([*parts, "secret"])
        with pytest.raises(OSError) as caught:
            confined.open_file(path)
        assert caught.value.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
        with pytest.raises(OSError):
            confined.stat(path)


def test_writing_through_a_linked_folder_stays_inside(confined: Root, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / "data/out").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError):
        confined.receive("/data/out/file")
    (root / "data/up").symlink_to("../../../..")
    incoming = confined.receive("/data/up/file")
    incoming.write(memoryview(b"x"))
    incoming.commit(mode=0o644, mtime_s=1)
    assert (root / "file").read_bytes() == b"x"
    assert list((tmp_path / "outside").iterdir()) == []
    assert not (tmp_path / "file").exists()


def test_a_push_onto_a_symlink_replaces_the_link(confined: Root, root: Path, tmp_path: Path) -> None:
    (root / "link").symlink_to(tmp_path / "secret")
    incoming = confined.receive("/link")
    incoming.write(memoryview(b"new"))
    incoming.commit(mode=0o600, mtime_s=77)
    assert (tmp_path / "secret").read_text() == "the host's"
    assert (root / "link").read_bytes() == b"new"
    assert not (root / "link").is_symlink()
    assert (root / "link").stat().st_mtime == 77


def test_folders_made_on_the_way_stay_inside(confined: Root, root: Path, tmp_path: Path) -> None:
    incoming = confined.receive("/data/new/deep/file")
    incoming.commit(mode=0o644, mtime_s=0)
    assert (root / "data/new/deep/file").exists()
    with pytest.raises(OSError):
        confined.receive("/data/nowhere/../../../file")
    assert not (tmp_path / "file").exists()


def test_magic_links_are_not_followed(confined: Root, root: Path) -> None:
    (root / "self").symlink_to("/proc/self/root/etc/passwd")
    with pytest.raises(OSError):
        confined.open_file("/self")


@pytest.mark.parametrize("path", ["/", "", ".", "..", "/data/..", "//"])
def test_what_is_no_file_name_is_refused(confined: Root, path: str) -> None:
    with pytest.raises(OSError):
        confined.receive(path)


def test_a_null_byte_is_refused(confined: Root) -> None:
    with pytest.raises(OSError) as caught:
        confined.stat("/etc/passwd\0.txt")
    assert caught.value.errno == errno.EINVAL


def test_a_pipe_is_not_read(confined: Root, root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(OSError) as caught:
        confined.open_file("/pipe")
    assert caught.value.errno == errno.EINVAL


def test_a_folder_is_not_a_file(confined: Root) -> None:
    with pytest.raises(OSError) as caught:
        confined.open_file("/data")
    assert caught.value.errno == errno.EISDIR


def test_dot_dot_in_the_roots_listing_is_the_root(confined: Root) -> None:
    found = dict(confined.list_dir("/"))
    here, above = found[b"."], found[b".."]
    assert isinstance(here, os.stat_result)
    assert isinstance(above, os.stat_result)
    assert here.st_ino == above.st_ino


def test_an_aborted_file_leaves_nothing(confined: Root, root: Path) -> None:
    (root / "data/file").write_text("old")
    incoming = confined.receive("/data/file")
    incoming.write(memoryview(b"half"))
    incoming.abort()
    assert (root / "data/file").read_text() == "old"
    assert sorted(path.name for path in (root / "data").iterdir()) == ["file", "local"]
