"""A package index of our own on loopback, with wheels and sdists that the test makes, and a zoo folder."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def sdist(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@dataclass
class PackageIndex:
    """``files`` by name; ``stall`` holds names whose second half is sent only once ``go`` is set."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    stall: set[str] = field(default_factory=set)
    go: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.address}/simple"

    def answer(self, path: str) -> tuple[str, bytes] | None:
        if path == "/simple/toy-models/":
            files = [
                {"url": f"/files/{n}", "filename": n, "size": len(d), "hashes": {"sha256": sha256(d)}}
                for n, d in self.files.items()
            ]
            page = {"meta": {"api-version": "1.0"}, "name": "toy-models", "files": files}
            return "application/vnd.pypi.simple.v1+json", json.dumps(page).encode()
        data = self.files.get(path.removeprefix("/files/"))
        return None if data is None else ("application/octet-stream", data)

    def downloads(self) -> list[str]:
        return [path.removeprefix("/files/") for path in self.requests if path.startswith("/files/")]


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, private_cache: Path) -> Iterator[PackageIndex]:
    state = PackageIndex()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            found = state.answer(self.path)
            if found is None:
                self.send_error(404)
                return
            kind, body = found
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            half = len(body) // 2
            try:
                self.wfile.write(body[:half])
                if self.path.removeprefix("/files/") in state.stall:
                    self.wfile.flush()
                    state.stalled.set()
                    state.go.wait(60)
                self.wfile.write(body[half:])
            except (BrokenPipeError, ConnectionResetError):
                pass

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        for name, value in {"INDEX_URL": state.url, "EXTRA_INDEX_URL": "", "FIND_LINKS": "", "PROXY": ""}.items():
            monkeypatch.setenv(f"PIP_{name}", value)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield state
        state.go.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def zoo_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``$MOBILEKIT_ZOO``: entries of the test, before those that ship."""
    folder = tmp_path / "my zoo"
    (folder / "labels").mkdir(parents=True)
    monkeypatch.setenv("MOBILEKIT_ZOO", str(folder))
    return folder


def pypi_entry(id_: str, archive: str, archive_bytes: bytes, member: str, data: bytes, extra: str = "") -> str:
    """The TOML text of an entry whose source is a package; ``extra`` comes before the tables."""
    return f"""
id = "{id_}"
title = "A toy"
license = "CC0-1.0"
sha256 = "{sha256(data)}"
{extra}
[source]
pypi = "toy-models"
version = "1.0"
archive = "{archive}"
sha256 = "{sha256(archive_bytes)}"
member = "{member}"
"""
