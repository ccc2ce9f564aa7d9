"""One file of a PyPI project, found through the index that pip is configured with, and checked before use.

Nothing is installed and no build backend runs: a project's sdist or wheel is fetched as a plain file. The index
comes from pip's own settings (``PIP_INDEX_URL``, ``pip.conf``, extra indexes, ``find-links`` folders), else from
pip's own default. Index pages are read as JSON (PEP 691) or, from older and ``file:`` indexes, as HTML (PEP 503).
"""

from __future__ import annotations

import base64
import fnmatch
import functools
import hashlib
import html.parser
import importlib
import json
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

from mobilekit.errors import ChecksumError, FetchError, SetupError
from mobilekit.paths import atomic_file, file_sha256
from mobilekit.progress import SILENT, Progress

__all__ = ["PipSettings", "RemoteFile", "download", "find_file", "pip_settings"]

_JSON = "application/vnd.pypi.simple.v1+json"
_CHUNK = 1 << 18
_PAGE_LIMIT = 64 << 20
_TRIES = 3
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """Where a file is. ``sha256`` (hex) and ``size`` (bytes) are what the index says, or ``None``."""

    url: str
    filename: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class PipSettings:
    """What of pip's settings matters here; ``indexes`` in the order in which they are asked."""

    indexes: tuple[str, ...]
    find_links: tuple[str, ...] = ()
    cert: str | None = None
    proxy: str | None = None
    timeout_s: float = 60.0


def pip_settings() -> PipSettings:
    """Read pip's environment variables and configuration files, in pip's order of precedence.

    Raises :class:`SetupError` where neither an index is configured nor pip is there to name its default.
    """
    values = _pip_config()

    def get(key: str) -> str | None:
        from_env = os.environ.get("PIP_" + key.upper().replace("-", "_"))
        if from_env is not None:
            return from_env
        return next(
            (values[f"{section}.{key}"] for section in ("download", "global") if f"{section}.{key}" in values), None
        )

    find_links = tuple((get("find-links") or "").split())
    indexes: list[str] = []
    if (get("no-index") or "").lower() not in ("1", "true", "yes", "on"):
        indexes.append(get("index-url") or _default_index())
        indexes.extend((get("extra-index-url") or "").split())
    cert = get("cert") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    try:
        timeout_s = float(get("timeout") or get("default-timeout") or 60.0)
    except ValueError:
        timeout_s = 60.0
    return PipSettings(tuple(dict.fromkeys(indexes)), find_links, cert or None, get("proxy") or None, timeout_s)


@functools.cache
def _pip_config() -> dict[str, str]:
    """``pip config list`` as a dictionary; empty where this environment has no pip."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if done.returncode != 0:
        return {}
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {key: value.strip("'\"").replace("\\n", " ") for key, equals, value in pairs if equals}


def _default_index() -> str:
    try:
        return str(importlib.import_module("pip._internal.models.index").PyPI.simple_url)
    except (ImportError, AttributeError):
        raise SetupError(
            "no package index is configured, and this Python environment has no pip to name its default",
            hint="python -m ensurepip   (or set PIP_INDEX_URL)",
        ) from None


def find_file(
    project: str,
    version: str | None,
    filename: str,
    sha256: str | None = None,
    *,
    settings: PipSettings | None = None,
) -> RemoteFile:
    """Find one file of ``project``: an exact name, or a shell pattern such as ``"name-1.2*-py3-none-any.whl"``.

    With ``version`` only files that carry it in their name are considered; with ``sha256`` only those whose bytes
    are (or, where the index publishes no hash, may be) these. The first index that has one wins.

    Raises :class:`FetchError` where no index has it, can be reached, or where several files fit;
    :class:`ChecksumError` where a file of that name is published with other bytes.
    """
    settings = settings or pip_settings()
    name = re.sub(r"[-_.]+", "-", project).lower()
    problems: list[str] = []
    other_bytes: RemoteFile | None = None
    for source, files in _listings(name, settings, problems):
        fitting = [f for f in files if fnmatch.fnmatchcase(f.filename, filename) and _has_version(f.filename, version)]
        if sha256 is not None:
            other_bytes = next((f for f in fitting if f.sha256 not in (None, sha256)), other_bytes)
            fitting = [f for f in fitting if f.sha256 in (None, sha256)]
        if len({f.filename for f in fitting}) > 1:
            names = ", ".join(sorted(f.filename for f in fitting)[:6])
            raise FetchError(f"{filename!r} fits several files of {project} on {source}: {names}")
        if fitting:
            return next((f for f in fitting if f.sha256), fitting[0])
    if other_bytes is not None:
        raise ChecksumError(
            f"{other_bytes.filename} is published with sha256 {other_bytes.sha256}, expected {sha256}",
            hint="do not use it; the file was replaced, or the index is not the one you think",
        )
    detail = "; ".join(problems) or "no such file"
    raise FetchError(
        f"the package index has no {filename!r} of {project}{f' {version}' if version else ''} ({detail})",
        hint="check the network and pip's index settings (pip config list)",
    )


def download(
    remote: RemoteFile,
    dest: Path,
    *,
    sha256: str | None = None,
    progress: Progress = SILENT,
    max_bytes: int = 4 << 30,
    settings: PipSettings | None = None,
) -> Path:
    """Fetch ``remote`` to the file ``dest``, whole and checked or not at all; returns ``dest``.

    A file that is there already with the right bytes is kept, with no network at all. ``sha256`` (hex) defaults to
    the index's; one of them must be known. Raises :class:`FetchError` (network, no hash, over ``max_bytes``),
    :class:`ChecksumError`, :class:`~mobilekit.errors.StorageError`.
    """
    expected = sha256 or remote.sha256
    if expected is None:
        raise FetchError(f"no sha256 is known for {remote.filename}", hint="record its sha256 first")
    expected = expected.lower()
    if dest.is_file() and file_sha256(dest) == expected:
        return dest
    if remote.size is not None and remote.size > max_bytes:
        raise FetchError(f"{remote.filename} is {remote.size} bytes, more than the limit of {max_bytes}")
    settings = settings or pip_settings()
    with atomic_file(dest) as temporary:
        actual = _retrying(remote.filename, lambda: _stream(remote, temporary, max_bytes, progress, settings))
        if actual != expected:
            raise ChecksumError(
                f"{remote.filename} has sha256 {actual}, expected {expected}",
                hint="nothing was kept; try again, and do not use the file if it happens twice",
            )
    return dest


def _stream(remote: RemoteFile, path: Path, max_bytes: int, progress: Progress, settings: PipSettings) -> str:
    digest = hashlib.sha256()
    done = 0
    with _open(remote.url, settings) as response, path.open("wb") as file:
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else remote.size
        with progress.task(f"fetching {remote.filename}", total, unit="bytes") as task:
            while chunk := response.read(_CHUNK):
                done += len(chunk)
                if done > max_bytes:
                    raise FetchError(f"{remote.filename} is longer than the limit of {max_bytes} bytes")
                digest.update(chunk)
                file.write(chunk)
                task.advance(len(chunk))
    if total is not None and done != total:
        raise _TransientError(f"the connection ended after {done} of {total} bytes")
    return digest.hexdigest()


class _TransientError(Exception):
    """Something that the next try may not meet."""


def _retrying(what: str, action: Any) -> Any:
    for attempt in range(1, _TRIES + 1):
        try:
            return action()
        except urllib.error.HTTPError as error:
            problem, again = f"HTTP {error.code} {error.reason}", error.code in _RETRIED
        except urllib.error.URLError as error:
            problem, again = str(error.reason), not isinstance(error.reason, (ssl.SSLError, FileNotFoundError))
        except (_TransientError, HTTPException, TimeoutError, ConnectionError) as error:
            problem, again = str(error) or type(error).__name__, True
        if not again or attempt == _TRIES:
            raise FetchError(
                f"could not fetch {what}: {problem}", hint="check the network, the proxy and pip's index settings"
            )
        time.sleep(0.5 * attempt)
    raise AssertionError("unreachable")


def _listings(name: str, settings: PipSettings, problems: list[str]) -> Iterator[tuple[str, list[RemoteFile]]]:
    for place in settings.find_links:
        folder = Path(urllib.request.url2pathname(urllib.parse.urlsplit(place).path) if "://" in place else place)
        if folder.is_dir():
            found = [p for p in sorted(folder.iterdir()) if re.sub(r"[-_.]+", "-", p.name).lower().startswith(name)]
            yield str(folder), [RemoteFile(p.resolve().as_uri(), p.name, size=p.stat().st_size) for p in found]
    for index in settings.indexes:
        page = f"{index.rstrip('/')}/{name}/"
        shown = _without_credentials(index)
        try:
            yield shown, _retrying(f"the page of {name} on {shown}", lambda page=page: _page(page, settings))
        except FetchError as error:
            problems.append(error.message)


def _page(url: str, settings: PipSettings) -> list[RemoteFile]:
    if url.startswith("file:"):
        url += "index.html"
    with _open(url, settings, accept=f"{_JSON}, text/html;q=0.2") as response:
        body = response.read(_PAGE_LIMIT + 1)
        if len(body) > _PAGE_LIMIT:
            raise FetchError(f"the index page {_without_credentials(url)} is implausibly long")
        base, kind = response.url, response.headers.get_content_type()
    if kind == _JSON:
        try:
            files = [
                RemoteFile(
                    urllib.parse.urljoin(base, f["url"]), f["filename"], f["hashes"].get("sha256"), f.get("size")
                )
                for f in json.loads(body)["files"]
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FetchError(f"the index page {_without_credentials(url)} is not valid: {error!r}") from error
    else:
        parser = _Anchors(base)
        parser.feed(body.decode("utf-8", "replace"))
        files = parser.files
    # An index on the network must not send us to files of this machine.
    local = urllib.parse.urlsplit(base).scheme == "file"
    files = [f for f in files if f.url.startswith(("https:", "http:")) or (local and f.url.startswith("file:"))]
    return [replace(f, url=_with_credentials_of(url, f.url)) for f in files]


class _Anchors(html.parser.HTMLParser):
    """The links of a PEP 503 page: the file's name ends the URL's path, its hash is the fragment."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self._base = base
        self.files: list[RemoteFile] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href") if tag == "a" else None
        if href:
            url, _, fragment = urllib.parse.urljoin(self._base, href).partition("#")
            name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
            kind, _, value = fragment.partition("=")
            self.files.append(RemoteFile(url, name, value.lower() if kind == "sha256" else None))


def _has_version(filename: str, version: str | None) -> bool:
    """Wheels are ``name-VERSION-tags.whl``, sdists ``name-VERSION.tar.gz`` or ``.zip``."""
    if version is None:
        return True
    if filename.endswith(".whl"):
        return filename.split("-")[1:2] == [version]
    return re.sub(r"\.(tar\.gz|tar\.bz2|tar\.xz|tgz|zip)$", "", filename).endswith(f"-{version}")


def _with_credentials_of(index: str, url: str) -> str:
    """An index that asks for a login asks for it on its own host's files too, as pip assumes; on no other host."""
    source, target = urllib.parse.urlsplit(index), urllib.parse.urlsplit(url)
    same = (source.scheme, source.hostname, source.port) == (target.scheme, target.hostname, target.port)
    return urllib.parse.urlunsplit(target._replace(netloc=source.netloc)) if same and "@" in source.netloc else url


def _without_credentials(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@contextmanager
def _open(url: str, settings: PipSettings, accept: str = "*/*") -> Iterator[Any]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("https", "http", "file"):
        raise FetchError(f"will not fetch {_without_credentials(url)}: only http, https and file are known")
    headers = {"Accept": accept, "User-Agent": "mobilekit"}
    request = urllib.request.Request(_without_credentials(url), headers=headers)  # noqa: S310
    if "@" in parts.netloc:
        login = urllib.parse.unquote(parts.netloc.rpartition("@")[0])
        credentials = "Basic " + base64.b64encode(login.encode()).decode()
        request.add_unredirected_header("Authorization", credentials)
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=_tls(settings.cert))]
    if settings.proxy:
        handlers.append(urllib.request.ProxyHandler({"http": settings.proxy, "https": settings.proxy}))
    with urllib.request.build_opener(*handlers).open(request, timeout=settings.timeout_s) as response:
        yield response


def _tls(cert: str | None) -> ssl.SSLContext:
    try:
        if cert:
            return ssl.create_default_context(
                cafile=None if Path(cert).is_dir() else cert, capath=cert if Path(cert).is_dir() else None
            )
        context = ssl.create_default_context()
        if not context.cert_store_stats()["x509_ca"] and not ssl.get_default_verify_paths().capath:
            context.load_verify_locations(importlib.import_module("certifi").where())
        return context
    except (OSError, ImportError) as error:
        raise SetupError(
            f"the certificates in {cert or 'the system store'} cannot be read: {error}",
            hint="check pip's --cert setting (PIP_CERT)",
        ) from error
