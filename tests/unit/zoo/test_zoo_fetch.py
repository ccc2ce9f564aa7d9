"""Fetching models: once, checked, whole or not at all; through a real HTTP index on loopback."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from mobilekit import zoo
from mobilekit.errors import ChecksumError, FetchError, MissingExtraError, StorageError, UsageError
from tests.unit.zoo.conftest import PackageIndex, pypi_entry, sdist, sha256, wheel

MODEL = b"the bytes of a model" * 5000
WHEEL, SDIST = "toy_models-1.0-py3-none-any.whl", "toy-models-1.0.tar.gz"
MEMBER = "toy_models/weights/toy.onnx"


def publish(index: PackageIndex, folder: Path, id_: str = "toy", extra: str = "", data: bytes = MODEL) -> None:
    archive = wheel({MEMBER: data, "toy_models/evil.py": b"raise SystemExit", "toy_models/names.json": b'["a", "b"]'})
    index.files[WHEEL] = archive
    (folder / f"{id_}.toml").write_text(pypi_entry(id_, WHEEL, archive, MEMBER, data, extra))


def everything(folder: Path) -> list[str]:
    """What the cache holds, lock files aside."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_one_file_out_of_a_wheel_and_nothing_else(index: PackageIndex, zoo_folder: Path, private_cache: Path) -> None:
    publish(index, zoo_folder)
    found = zoo.fetch("toy")
    assert found.path.read_bytes() == MODEL
    assert (found.path.name, found.id, found.labels) == ("toy.onnx", "toy", None)
    assert [Path(p).name for p in everything(private_cache)] == ["kept.json", "toy.onnx"]


def test_one_file_out_of_an_sdist(index: PackageIndex, zoo_folder: Path) -> None:
    archive = sdist({"toy-models-1.0/setup.py": b"raise SystemExit", "toy-models-1.0/toy.onnx": MODEL})
    index.files[SDIST] = archive
    (zoo_folder / "toy.toml").write_text(pypi_entry("toy", SDIST, archive, "toy-models-1.0/toy.onnx", MODEL))
    assert zoo.fetch("toy").path.read_bytes() == MODEL


def test_the_second_time_needs_no_network(index: PackageIndex, zoo_folder: Path) -> None:
    publish(index, zoo_folder)
    first = zoo.fetch("toy")
    asked = len(index.requests)
    index.files.clear()
    assert zoo.fetch("toy") == first
    assert len(index.requests) == asked
    assert zoo.cached(zoo.find_entry("toy")) == first.path


@pytest.mark.parametrize("damage", ["longer", "other bytes", "gone", "no stamp"])
def test_a_damaged_cache_is_fetched_again(index: PackageIndex, zoo_folder: Path, damage: str) -> None:
    publish(index, zoo_folder)
    path = zoo.fetch("toy").path
    if damage == "longer":
        path.write_bytes(MODEL + b"!")
    elif damage == "other bytes":
        path.write_bytes(b"!" + MODEL[1:])
    elif damage == "gone":
        path.unlink()
    else:
        (path.parent / "kept.json").unlink()
    assert zoo.cached(zoo.find_entry("toy")) is None
    assert zoo.fetch("toy").path.read_bytes() == MODEL


def test_two_models_of_one_package_load_it_once(index: PackageIndex, zoo_folder: Path) -> None:
    publish(index, zoo_folder, "first")
    publish(index, zoo_folder, "second")
    first, second = zoo.fetch_all(["first", "second"])
    assert first.path != second.path
    assert index.downloads() == [WHEEL]


def test_an_entry_that_changes_is_fetched_anew(index: PackageIndex, zoo_folder: Path) -> None:
    publish(index, zoo_folder)
    old = zoo.fetch("toy").path
    publish(index, zoo_folder, data=b"a better model")
    assert zoo.fetch("toy").path.read_bytes() == b"a better model"
    assert old.read_bytes() == MODEL


def test_an_archive_with_other_bytes_is_never_opened(
    index: PackageIndex, zoo_folder: Path, private_cache: Path
) -> None:
    publish(index, zoo_folder)
    index.files[WHEEL] = wheel({MEMBER: MODEL, "something": b"else"})
    with pytest.raises(ChecksumError, match="sha256"):
        zoo.fetch("toy")
    assert everything(private_cache) == []


def test_a_member_with_other_bytes_is_refused(index: PackageIndex, zoo_folder: Path, private_cache: Path) -> None:
    archive = wheel({MEMBER: b"not what the entry says"})
    index.files[WHEEL] = archive
    (zoo_folder / "toy.toml").write_text(pypi_entry("toy", WHEEL, archive, MEMBER, MODEL))
    with pytest.raises(ChecksumError, match=r"toy\.onnx has sha256"):
        zoo.fetch("toy")
    assert everything(private_cache) == []


def test_a_member_that_is_missing_or_too_long(index: PackageIndex, zoo_folder: Path, private_cache: Path) -> None:
    archive = wheel({"toy_models/other.onnx": MODEL})
    index.files[WHEEL] = archive
    (zoo_folder / "toy.toml").write_text(pypi_entry("toy", WHEEL, archive, MEMBER, MODEL))
    with pytest.raises(FetchError, match="is not in it"):
        zoo.fetch("toy")
    publish(index, zoo_folder, extra=f"limit_bytes = {len(MODEL) - 1}")
    with pytest.raises(FetchError, match="longer than the limit"):
        zoo.fetch("toy")
    assert everything(private_cache) == []


def test_a_zip_bomb_stops_at_the_limit(index: PackageIndex, zoo_folder: Path, private_cache: Path) -> None:
    """The header of the member lies about its length."""
    bomb = bytearray(wheel({MEMBER: bytes(5_000_000)}))
    lie = (1000).to_bytes(4, "little")
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = bomb.index(signature) + offset
        bomb[at : at + 4] = lie
    index.files[WHEEL] = bytes(bomb)
    entry = pypi_entry("toy", WHEEL, bytes(bomb), MEMBER, bytes(5_000_000), extra="limit_bytes = 100000")
    (zoo_folder / "toy.toml").write_text(entry)
    with pytest.raises(FetchError):
        zoo.fetch("toy")
    assert everything(private_cache) == []


def test_a_link_in_a_wheel_is_refused(index: PackageIndex, zoo_folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "link.whl"
    with zipfile.ZipFile(made, "w") as file:
        info = zipfile.ZipInfo(MEMBER)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    archive = index.files[WHEEL] = made.read_bytes()
    (zoo_folder / "toy.toml").write_text(pypi_entry("toy", WHEEL, archive, MEMBER, b"/etc/passwd"))
    with pytest.raises(FetchError, match="no plain file"):
        zoo.fetch("toy")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_link_or_device_in_an_sdist_is_refused(
    index: PackageIndex, zoo_folder: Path, tmp_path: Path, kind: bytes
) -> None:
    made = tmp_path / "link.tar.gz"
    with tarfile.open(made, "w:gz") as file:
        info = tarfile.TarInfo("toy-models-1.0/toy.onnx")
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    archive = index.files[SDIST] = made.read_bytes()
    (zoo_folder / "toy.toml").write_text(pypi_entry("toy", SDIST, archive, "toy-models-1.0/toy.onnx", b""))
    with pytest.raises(FetchError):
        zoo.fetch("toy")


@pytest.mark.parametrize("name", [WHEEL, SDIST])
def test_an_archive_that_is_none(index: PackageIndex, zoo_folder: Path, name: str) -> None:
    archive = index.files[name] = b"no archive at all"
    (zoo_folder / "toy.toml").write_text(pypi_entry("toy", name, archive, MEMBER, MODEL))
    with pytest.raises(FetchError, match="damaged archive"):
        zoo.fetch("toy")


def test_no_network(index: PackageIndex, zoo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(index, zoo_folder)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(FetchError, match=WHEEL) as caught:
        zoo.fetch("toy")
    assert "network" in caught.value.hint


def test_labels_from_a_package(index: PackageIndex, zoo_folder: Path) -> None:
    publish(index, zoo_folder)
    archive = index.files[WHEEL]
    with (zoo_folder / "toy.toml").open("a") as file:
        file.write(f"""
[labels]
format = "json"
sha256 = "{sha256(b'["a", "b"]')}"
[labels.source]
pypi = "toy-models"
version = "1.0"
archive = "{WHEEL}"
sha256 = "{sha256(archive)}"
member = "toy_models/names.json"
""")
    assert zoo.fetch("toy").class_names() == ("a", "b")
    assert index.downloads() == [WHEEL]


@pytest.mark.parametrize(
    ("text", "spec", "names"),
    [
        ("a\nb c\n", "", ("a", "b c")),
        ('{"1": "b", "0": "a"}', 'format = "json"', ("a", "b")),
        ('{"deep": ["x", "line\\nbreak"]}', 'format = "json"\nkey = "deep"', ("x", "line break")),
    ],
)
def test_labels_beside_the_entry(
    index: PackageIndex, zoo_folder: Path, text: str, spec: str, names: tuple[str, ...]
) -> None:
    publish(index, zoo_folder)
    (zoo_folder / "labels" / "names").write_text(text)
    with (zoo_folder / "toy.toml").open("a") as file:
        file.write(f'[labels]\nfile = "names"\n{spec}\n')
    assert zoo.fetch("toy").class_names() == names


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"0": "a", "2": "c"}', "not json", '"one"'])
def test_labels_that_are_none(index: PackageIndex, zoo_folder: Path, private_cache: Path, text: str) -> None:
    publish(index, zoo_folder)
    (zoo_folder / "labels" / "names").write_text(text)
    with (zoo_folder / "toy.toml").open("a") as file:
        file.write('[labels]\nfile = "names"\nformat = "json"\n')
    with pytest.raises(FetchError, match="labels of toy"):
        zoo.fetch("toy")
    assert everything(private_cache) == []


def test_a_url(index: PackageIndex, zoo_folder: Path, private_cache: Path) -> None:
    index.files["toy.onnx"] = MODEL
    text = 'id = "toy"\ntitle = "t"\nlicense = "MIT"\n[source]\nurl = "http://{}/files/toy.onnx"\nsha256 = "{}"\n'
    (zoo_folder / "toy.toml").write_text(text.format(index.address, sha256(MODEL)))
    assert zoo.fetch("toy").path.read_bytes() == MODEL
    (zoo_folder / "toy.toml").write_text(text.format(index.address, sha256(b"other")))
    with pytest.raises(ChecksumError):
        zoo.fetch("toy")


def test_a_local_file_is_used_where_it_lies(zoo_folder: Path, private_cache: Path) -> None:
    (zoo_folder / "here.onnx").write_bytes(MODEL)
    (zoo_folder / "labels" / "l.txt").write_text("a\nb\n")
    text = 'id = "toy"\ntitle = "t"\nlicense = "MIT"\n{}\n[source]\nfile = "here.onnx"\n[labels]\nfile = "l.txt"\n'
    (zoo_folder / "toy.toml").write_text(text.format(""))
    found = zoo.fetch("toy")
    assert (found.path, found.class_names()) == (zoo_folder / "here.onnx", ("a", "b"))
    (zoo_folder / "toy.toml").write_text(text.format(f'sha256 = "{sha256(b"x")}"'))
    with pytest.raises(ChecksumError):
        zoo.fetch("toy")
    (zoo_folder / "here.onnx").unlink()
    with pytest.raises(FetchError, match="not there"):
        zoo.fetch("toy")


def test_copies_to_a_folder(index: PackageIndex, zoo_folder: Path, tmp_path: Path) -> None:
    publish(index, zoo_folder)
    (zoo_folder / "labels" / "l.txt").write_text("a\nb\n")
    with (zoo_folder / "toy.toml").open("a") as file:
        file.write('[labels]\nfile = "l.txt"\n')
    found = zoo.fetch("toy", folder=tmp_path / "deep" / "out")
    assert found.path == tmp_path / "deep" / "out" / "toy.onnx"
    assert found.path.read_bytes() == MODEL
    assert found.class_names() == ("a", "b")
    with pytest.raises(UsageError, match="no folder"):
        zoo.fetch("toy", folder=found.path)
    with pytest.raises(UsageError, match="no folder"):  # what was meant is a file
        zoo.fetch("toy", folder=tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_preparing_without_torch_says_so_before_anything_is_fetched(
    index: PackageIndex, zoo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(index, zoo_folder, extra='prepare = "torchvision-mobilenet-v2"')
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        zoo.fetch("toy")
    assert "mobilekit[torch]" in caught.value.hint
    assert index.requests == []


def mobilekit(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mobilekit", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def test_ctrl_c_in_a_download_leaves_nothing(index: PackageIndex, zoo_folder: Path, private_cache: Path) -> None:
    publish(index, zoo_folder, data=os.urandom(3_000_000))
    index.stall.add(WHEEL)
    with mobilekit("zoo", "fetch", "toy") as process:
        assert index.stalled.wait(60)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert everything(private_cache) == []
    assert [p for p in private_cache.rglob("*") if p.is_dir() and p.name != "zoo"] == []
    index.go.set()
    assert zoo.fetch("toy").path.is_file()


def test_two_processes_fetch_one_model_once(index: PackageIndex, zoo_folder: Path, private_cache: Path) -> None:
    publish(index, zoo_folder, data=os.urandom(3_000_000))
    index.stall.add(WHEEL)
    with mobilekit("zoo", "fetch", "toy") as first:
        assert index.stalled.wait(60)
        with mobilekit("zoo", "fetch", "toy") as second:
            assert second.stderr is not None
            assert "waiting for another" in second.stderr.readline()
            index.go.set()
            outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert outputs[0] == outputs[1]
    assert index.downloads() == [WHEEL]
    assert len(everything(private_cache)) == 2


def test_a_cache_that_cannot_be_written(
    index: PackageIndex, zoo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(index, zoo_folder)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MOBILEKIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match="cannot write"):
        zoo.fetch("toy")
    assert index.downloads() == []
