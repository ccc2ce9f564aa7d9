"""Files and folders are whole or not there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mobilekit.errors import StorageError
from mobilekit.paths import Scratch, atomic_dir, atomic_file, cache_dir, state_dir, storage_errors


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


@pytest.mark.parametrize("place", ["/proc/none", "/dev/null", "/dev/null/below"])
def test_a_home_where_nothing_can_be_made_is_told(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for make, variable in ((cache_dir, "MOBILEKIT_CACHE"), (state_dir, "MOBILEKIT_STATE")):
        monkeypatch.setenv(variable, place)
        with pytest.raises(StorageError, match=place) as caught:
            make("x")
        assert variable in caught.value.hint


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


def test_scratch_is_gone_when_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt), Scratch("test") as folder:
        (folder / "file").write_text("x")
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        raise KeyboardInterrupt
    scratch = Scratch("test")
    scratch.cleanup()
    scratch.cleanup()
    assert not list(tmp_path.iterdir())


def test_scratch_of_the_dead_is_removed_and_that_of_the_living_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sys, time; from pathlib import Path; from mobilekit.paths import Scratch, atomic_dir\n"
        "scratch = Scratch('test'); (scratch.path / 'file').write_text('x')\n"
        f"part = atomic_dir(Path('{tmp_path}/out')); (part.__enter__() / 'half').write_text('x')\n"
        "print(scratch.path, flush=True); sys.stdin.read()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    dead, living = (Path(process.stdout.readline().strip()) for process in processes if process.stdout is not None)
    processes[0].kill()
    processes[0].wait()
    other = tmp_path / "mobilekit-scratch-of-mine"
    other.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert len(list(tmp_path.glob(".out.*.part"))) == 2
    with Scratch("test") as folder, atomic_dir(tmp_path / "out"):
        assert not dead.exists()
        assert {path for path in tmp_path.iterdir() if path.name[0] != "."} == {folder, living, other}
        assert len(list(tmp_path.glob(".out.*.part"))) == 2
    processes[1].kill()
    for process in processes:
        process.communicate()


def test_places_that_take_no_files_are_said_to_be() -> None:
    for place in (Path("/proc/x"), Path("a" * 300)):
        with pytest.raises(StorageError), atomic_file(place):
            pass
        with pytest.raises(StorageError), atomic_dir(place):
            pass
