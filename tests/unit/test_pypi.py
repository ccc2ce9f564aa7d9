"""The index is a real HTTP server on loopback, or a folder; pip's own index is asked in the network test only."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mobilekit import pypi
from mobilekit.errors import ChecksumError, FetchError
from mobilekit.pypi import PipSettings, RemoteFile

BODY = b"the bytes of a source distribution" * 1000
SHA = hashlib.sha256(BODY).hexdigest()


@dataclass
class Index:
    """``pages`` maps a path to (status, content type, body); ``truncate`` cuts bodies short of their stated length."""

    address: str = ""
    pages: dict[str, tuple[int, str, bytes]] = field(default_factory=dict)
    truncate: set[str] = field(default_factory=set)
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def publish(self, *names: str, sha256: str | None = SHA) -> None:
        hashes = {} if sha256 is None else {"sha256": sha256}
        files = [{"url": f"/files/{n}", "filename": n, "hashes": hashes} for n in names]
        page = json.dumps({"files": files}).encode()
        self.pages["/simple/some-project/"] = (200, "application/vnd.pypi.simple.v1+json", page)
        for name in names:
            self.pages[f"/files/{name}"] = (200, "application/octet-stream", BODY)

    @property
    def settings(self) -> PipSettings:
        return PipSettings((f"http://{self.address}/simple",), timeout_s=60)


@pytest.fixture
def index() -> Iterator[Index]:
    state = Index()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append((self.path, self.headers.get("Authorization")))
            status, kind, body = state.pages.get(self.path, (404, "text/plain", b"no"))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if self.path in state.truncate else body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield state
        server.shutdown()
        thread.join()


def test_finds_and_downloads_what_a_json_index_lists(index: Index, tmp_path: Path) -> None:
    index.publish("some_project-1.2.tar.gz", "some_project-1.3.tar.gz")
    remote = pypi.find_file("Some.Project", "1.2", "some_project-*.tar.gz", settings=index.settings)
    assert (remote.filename, remote.sha256) == ("some_project-1.2.tar.gz", SHA)
    path = pypi.download(remote, tmp_path / "a" / "file", settings=index.settings)
    assert path.read_bytes() == BODY


def test_finds_what_an_html_page_lists(index: Index) -> None:
    page = f'<html><a href="../../files/some_project-1.2.tar.gz#sha256={SHA}">x</a></html>'.encode()
    index.pages["/simple/some-project/"] = (200, "text/html", page)
    remote = pypi.find_file("some-project", "1.2", "some_project-1.2.tar.gz", settings=index.settings)
    assert remote == RemoteFile(f"http://{index.address}/files/some_project-1.2.tar.gz", "some_project-1.2.tar.gz", SHA)


def test_reads_a_file_index_and_a_find_links_folder(tmp_path: Path) -> None:
    (tmp_path / "simple" / "some-project").mkdir(parents=True)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "some_project-1.2.zip").write_bytes(BODY)
    page = '<a href="../../files/some_project-1.2.zip">x</a>'
    (tmp_path / "simple" / "some-project" / "index.html").write_text(page)
    for settings in (
        PipSettings((f"{tmp_path.as_uri()}/simple",)),
        PipSettings((), find_links=(str(tmp_path / "files"),)),
    ):
        remote = pypi.find_file("some_project", "1.2", "some_project-1.2.zip", settings=settings)
        kept = pypi.download(remote, tmp_path / "kept", sha256=SHA, settings=settings)
        assert kept.read_bytes() == BODY
        kept.unlink()


def test_a_network_page_cannot_point_at_local_files(index: Index) -> None:
    index.pages["/simple/some-project/"] = (200, "text/html", b'<a href="file:///etc/some_project-1.2.zip">x</a>')
    with pytest.raises(FetchError, match="has no"):
        pypi.find_file("some-project", "1.2", "some_project-1.2.zip", settings=index.settings)


def test_asks_the_next_index_when_one_is_down(index: Index) -> None:
    index.publish("some_project-1.2.zip")
    settings = PipSettings((f"http://{index.address}/absent", *index.settings.indexes), timeout_s=60)
    assert pypi.find_file("some-project", None, "*.zip", settings=settings).sha256 == SHA


def test_says_so_when_several_files_fit(index: Index) -> None:
    index.publish("some_project-1.2.zip", "some_project-1.3.zip")
    with pytest.raises(FetchError, match="several files"):
        pypi.find_file("some-project", None, "*.zip", settings=index.settings)


def test_refuses_other_bytes_than_were_asked_for(index: Index) -> None:
    index.publish("some_project-1.2.zip")
    with pytest.raises(ChecksumError):
        pypi.find_file("some-project", "1.2", "some_project-1.2.zip", "0" * 64, settings=index.settings)


@pytest.mark.parametrize("trouble", ["wrong bytes", "truncated", "too long", "missing", "no hash"])
def test_a_bad_download_leaves_nothing(index: Index, tmp_path: Path, trouble: str) -> None:
    index.publish("some_project-1.2.zip", sha256=None if trouble == "no hash" else SHA)
    remote = pypi.find_file("some-project", "1.2", "some_project-1.2.zip", settings=index.settings)
    path = "/files/some_project-1.2.zip"
    if trouble == "wrong bytes":
        index.pages[path] = (200, "application/octet-stream", BODY[::-1])
    elif trouble == "truncated":
        index.truncate.add(path)
    elif trouble == "missing":
        del index.pages[path]
    limit = len(BODY) - 1 if trouble == "too long" else len(BODY)
    with pytest.raises(ChecksumError if trouble == "wrong bytes" else FetchError):
        pypi.download(remote, tmp_path / "file", max_bytes=limit, settings=index.settings)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(index: Index, tmp_path: Path) -> None:
    from contextlib import contextmanager

    class Interrupting:
        def step(self, text: str) -> None: ...
        def note(self, text: str) -> None: ...

        @contextmanager
        def task(self, text: str, total: float | None = None, *, unit: str = ""):  # type: ignore[no-untyped-def]
            yield self

        def advance(self, amount: float = 1) -> None:
            raise KeyboardInterrupt

        def describe(self, text: str) -> None: ...

    index.publish("some_project-1.2.zip")
    remote = pypi.find_file("some-project", "1.2", "some_project-1.2.zip", settings=index.settings)
    with pytest.raises(KeyboardInterrupt):
        pypi.download(remote, tmp_path / "file", progress=Interrupting(), settings=index.settings)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_needs_no_network(index: Index, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY)
    pypi.download(RemoteFile("http://127.0.0.1:9/x", "x", SHA), tmp_path / "file", settings=index.settings)
    assert index.requests == []


def test_credentials_go_to_the_index_host_and_into_no_message(index: Index, tmp_path: Path) -> None:
    index.publish("some_project-1.2.zip")
    settings = PipSettings((f"http://me:s3cret@{index.address}/simple",), timeout_s=60)
    remote = pypi.find_file("some-project", "1.2", "some_project-1.2.zip", settings=settings)
    pypi.download(remote, tmp_path / "file", settings=settings)
    assert {login for _, login in index.requests} == {"Basic " + base64.b64encode(b"me:s3cret").decode()}
    with pytest.raises(FetchError) as caught:
        pypi.find_file("other", "1.2", "other-1.2.zip", settings=settings)
    assert "s3cret" not in str(caught.value)


def test_pip_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://127.0.0.1:9/a http://127.0.0.1:9/b")
    monkeypatch.setenv("PIP_CERT", "/some/cert.pem")
    settings = pypi.pip_settings()
    assert settings.indexes == tuple(f"http://127.0.0.1:9/{p}" for p in ("simple", "a", "b"))
    assert settings.cert == "/some/cert.pem"


@pytest.mark.network
def test_the_configured_index_has_ncnns_source() -> None:
    assert pypi.find_file("ncnn", "1.0.20261020", "ncnn-1.0.20261020.tar.gz").sha256
