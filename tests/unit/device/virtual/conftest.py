from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.device.virtual.virtual_host import Host, PrivateKey, make_key, serving


@pytest.fixture(scope="session")
def key() -> PrivateKey:
    return make_key(1)


@pytest.fixture(scope="session")
def strangers_key() -> PrivateKey:
    return make_key(2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A device's root beside a file of the host that nothing may reach."""
    folder = tmp_path / "root"
    (folder / "data/local/tmp").mkdir(parents=True)
    (folder / "etc").mkdir()
    (folder / "etc/passwd").write_text("shell\n")
    (tmp_path / "secret").write_text("the host's")
    return folder


@pytest.fixture
def port(root: Path, key: PrivateKey) -> Iterator[int]:
    with serving(root, key) as number:
        yield number


@pytest.fixture
def host(port: int, key: PrivateKey) -> Iterator[Host]:
    made = Host(port)
    made.log_in(key)
    with made.socket:
        yield made
