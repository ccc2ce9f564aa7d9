"""The bundle reader distrusts what it reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilekit.bundle import MANIFEST, Manifest, ModelInfo, TensorInfo, open_bundle, sha256_of, write_manifest
from mobilekit.errors import BundleError


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    root = tmp_path / "my bundle"
    (root / "source").mkdir(parents=True)
    (root / "source" / "model.onnx").write_bytes(b"model")
    (root / "labels.txt").write_text("cat\ndog\n")
    write_manifest(
        root,
        Manifest(
            mobilekit_version="0.1.0",
            model=ModelInfo(
                id="m", file="source/model.onnx", sha256=sha256_of(root / "source" / "model.onnx"), opset=17
            ),
            inputs=(TensorInfo(name="x:0", dtype="float32", shape=(1, 3)),),
            outputs=(TensorInfo(name="y", dtype="float32", shape=(1, 2)),),
            labels="labels.txt",
        ),
    )
    return root


def edit(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    raw = json.loads((root / MANIFEST).read_text())
    change(raw)
    (root / MANIFEST).write_text(json.dumps(raw))


def test_what_was_written_is_read(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.labels() == ("cat", "dog")
    assert opened.source.read_bytes() == b"model"
    assert {entry.path for entry in opened.manifest.files} == {"labels.txt", "source/model.onnx"}


def test_measurements_are_not_part_of_its_identity(bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    (bundle / "run.json").write_text("{}")
    write_manifest(bundle, open_bundle(bundle).manifest)
    assert (bundle / MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: raw.update(schema_version="2.0"), "newer"),
        (lambda raw: raw.update(schema_version="what"), "cannot read"),
        (lambda raw: raw.update(run_me="os:system"), "run_me"),
        (lambda raw: raw["model"].update(file="/etc/passwd"), "unsafe path"),
        (lambda raw: raw["model"].update(file="../../etc/passwd"), "unsafe path"),
        (lambda raw: raw["model"].update(file="source/other.onnx"), "does not list"),
        (lambda raw: raw["files"][0].update(path="absent.txt"), "names labels.txt"),
        (lambda raw: raw["files"].append({**raw["files"][0], "path": "absent"}), "lacks"),
        (lambda raw: raw["files"][0].update(size_bytes=1), "bytes"),
        (lambda raw: raw["inputs"][0]["shape"].append(-3), "negative size"),
        (lambda raw: raw["inputs"][0].update(free=[{"axis": 9}]), "axes"),
        (lambda raw: raw["files"][0].update(sha256="0" * 64), "sha256"),
        (lambda raw: raw["files"][0].update(sha256="short"), "not valid"),
    ],
)
def test_a_tampered_manifest_is_refused(bundle: Path, change: Callable[[dict[str, Any]], None], says: str) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=says) as caught:
        open_bundle(bundle)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema_version": null}', "\ud800".encode("utf-16", "replace")]
)
def test_a_manifest_that_is_no_manifest_is_refused(bundle: Path, text: str | bytes) -> None:
    (bundle / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BundleError):
        open_bundle(bundle)


def test_changed_bytes_of_the_same_size_are_refused(bundle: Path) -> None:
    (bundle / "source" / "model.onnx").write_bytes(b"modem")
    with pytest.raises(BundleError, match="sha256"):
        open_bundle(bundle)
    open_bundle(bundle, check=False)


def test_links_are_refused(bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (bundle / "source").rename(outside)
    (bundle / "source").symlink_to(outside)
    with pytest.raises(BundleError, match="symbolic link"):
        open_bundle(bundle)


def test_no_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BundleError) as caught:
            open_bundle(path)
        assert "mobilekit export" in caught.value.hint
