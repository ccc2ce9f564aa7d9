"""Files and folders are whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mobilekit.errors import StorageError
from mobilekit.paths import atomic_dir, atomic_file, cache_dir, storage_errors


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    with atomic_file(target) as temporary:
        temporary.write_text("all of it")
        assert not target.exists()
    assert target.read_text() == "all of it"
    assert [p.name for p in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "old").write_text("old")
    with pytest.raises(interruption), atomic_dir(folder) as temporary:
        (temporary / "half").write_text("half")
        raise interruption
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    assert (folder / "old").read_text() == "old"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "a name with spaces"
    folder.mkdir()
    (folder / "old").write_text("old")
    with atomic_dir(folder) as temporary:
        (temporary / "new").write_text("new")
    assert [p.name for p in folder.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_storage_trouble_is_one_of_ours(tmp_path: Path, code: int) -> None:
    with pytest.raises(StorageError), storage_errors(tmp_path):
        raise OSError(code, "no")


def test_the_cache_goes_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILEKIT_CACHE", str(tmp_path / "c"))
    assert cache_dir("zoo") == tmp_path / "c" / "zoo"
    monkeypatch.delenv("MOBILEKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_dir() == tmp_path / "x" / "mobilekit"


def test_a_place_where_nothing_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError), atomic_file(Path("/proc/no/such/place")):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError), atomic_dir(tmp_path / "file" / "below"):
        pass


def test_a_pipe_is_written_to_not_replaced(tmp_path: Path) -> None:
    """`--json /dev/null` as root must not make a file of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with atomic_file(pipe) as temporary:
            temporary.write_text("through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with atomic_file(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("kind", ["file", "link", "pipe"])
def test_what_is_no_folder_is_never_swapped_for_one(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    (tmp_path / "elsewhere").mkdir()
    if kind == "file":
        place.write_text("mine")
    elif kind == "link":
        place.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(place)
    before = place.lstat()
    with pytest.raises(StorageError, match="not a folder"), atomic_dir(place):
        pass
    assert place.lstat().st_ino == before.st_ino
