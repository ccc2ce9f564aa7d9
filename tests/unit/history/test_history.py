"""Runs kept in a database: SQLite, and a real PostgreSQL; locked, read-only, foreign, older and newer ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy

from mobilekit.errors import MissingExtraError, StorageError, UsageError
from mobilekit.history import store
from mobilekit.history.store import History, location
from mobilekit.pipeline.export import export_model
from mobilekit.pipeline.history import record
from tests.e2e.bench import mobilekit
from tests.models import conv_classifier, save
from tests.ports import free_port
from tests.unit.report.reports import HOSTILE, output, report


def place(path: Path) -> str:
    found = location(str(path))
    assert found is not None
    return found


def binary(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A PostgreSQL of its own, on loopback alone; it does not run as root."""
    initdb, postgres = binary("initdb"), binary("postgres")
    if initdb is None or postgres is None:
        pytest.skip("needs PostgreSQL (Debian's package postgresql)")
    # Not in pytest's own folder, which every other pytest that starts closes to all but its user.
    root = Path(tempfile.mkdtemp(prefix="mobilekit-postgres-"))
    drop: list[str] = []
    if os.geteuid() == 0:
        root.chmod(0o755)
        shutil.chown(root, "nobody", "nogroup")
        drop = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    data = root / "data"
    in_utf8 = ["-E", "UTF8", "--locale", "C"]  # whatever the locale of who runs this
    made = [*drop, initdb, "-D", data, "-U", "team", "-A", "trust", "-N", *in_utf8]
    subprocess.run(made, check=True, capture_output=True)
    port = free_port()
    command = [postgres, "-D", data, "-p", port, "-h", "127.0.0.1", "-k", root, "-F"]
    with (root / "log").open("wb") as log:
        running = subprocess.Popen([*drop, *map(str, command)], stdout=log, stderr=log)
    try:
        ready = binary("pg_isready")
        assert ready
        deadline = time.monotonic() + 120
        while subprocess.run([ready, "-h", "127.0.0.1", "-p", str(port)], capture_output=True).returncode != 0:
            assert running.poll() is None, (root / "log").read_text()
            assert time.monotonic() < deadline, (root / "log").read_text()
            time.sleep(0.05)
        yield f"postgresql://team@127.0.0.1:{port}/postgres"
    finally:
        running.send_signal(signal.SIGINT)  # without waiting for those who are connected
        running.wait(120)
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return place(tmp_path / "a folder" / "history.sqlite")
    found = location(request.getfixturevalue("server"))
    assert found is not None
    return found


def test_runs_are_listed_newest_first_and_read_back(url: str) -> None:
    made = [report(sentence=text, model="listed") for text in ("old", "new")]
    with History(url) as opened:
        first = opened.add(made[0], tag="main", at=datetime(2026, 1, 1, tzinfo=UTC))
        second = opened.add(made[1], at=datetime(2026, 2, 1, tzinfo=UTC))
    with History(url) as opened:
        found = opened.entries(model="listed")
        assert [entry.id for entry in found] == [second, first]
        assert found[1].tag == "main"
        assert found[0].at == datetime(2026, 2, 1, tzinfo=UTC)
        assert found[0].p50_ms == pytest.approx(12.5)
        assert found[0].comparable is False
        assert opened.report(second) == made[1]
        assert opened.entries(model="another") == []
        assert len(opened.entries(model="listed", limit=1)) == 1
        with pytest.raises(UsageError, match="no run 999999"):
            opened.report(999999)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_first_runs_may_come_at_once(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """As of two jobs that share a history which nobody has made yet."""
    url = place(tmp_path / "h.sqlite")
    if kind == "postgresql":
        url = request.getfixturevalue("server").rpartition("/")[0].replace("postgresql:", "postgresql+psycopg:")
        engine = sqlalchemy.create_engine(f"{url}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("DROP DATABASE IF EXISTS shared")
            connection.exec_driver_sql("CREATE DATABASE shared")
        engine.dispose()
        url += "/shared"
    count, failed = 6, list[BaseException]()
    together = threading.Barrier(count, timeout=120)

    def add(number: int) -> None:
        try:
            together.wait()
            with History(url, wait_s=120) as opened:
                opened.add(report(), tag=str(number))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    with History(url) as opened:
        assert {entry.tag for entry in opened.entries()} == set(map(str, range(count)))


def test_strange_names_and_numbers_are_kept(url: str) -> None:
    strange = report(model=HOSTILE[0] + "\0\ud800", outputs=(output("x", relative_l2=float("inf")),))
    strange = strange.model_copy(update={"model": "zero \0 here; DROP TABLE mobilekit_runs; --"})
    with History(url) as opened:
        number = opened.add(strange, tag="'; DELETE FROM mobilekit_runs; --")
        entry = opened.entries(model=strange.model)[0]
        assert entry.id == number
        assert entry.relative_l2 is None
        assert opened.report(number).outputs[0].relative_l2 == float("inf")


def test_a_server_set_up_in_the_c_locale_keeps_all_names(server: str) -> None:
    url = server.rpartition("/")[0].replace("postgresql:", "postgresql+psycopg:")
    engine = sqlalchemy.create_engine(f"{url}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    engine.dispose()
    with History(f"{url}/plain") as opened:
        opened.add(report(model="größe 模型"), tag="ночь")
        assert [(each.model, each.tag) for each in opened.entries()] == [("größe 模型", "ночь")]


def test_a_file_that_is_absent_is_said_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = tmp_path / "typo.sqlite"
    for arguments in ([], ["--json"], ["--show", "1"], ["--plot", str(tmp_path / "runs.html")]):
        done = mobilekit("history", "--history", str(absent), *arguments)
        assert done.returncode == 2, done.stderr
        assert f"there is no history at {absent}" in done.stderr
    assert list(tmp_path.iterdir()) == []
    # The default place is absent until the first run is kept, and that is no mistake.
    monkeypatch.setenv("MOBILEKIT_HISTORY", str(absent))
    done = mobilekit("history")
    assert done.returncode == 0
    assert "no runs are kept yet" in done.stderr


def test_names_longer_than_a_column_stay_apart(url: str) -> None:
    long = [report(model="m" * 600 + end) for end in "ab"]
    with History(url) as opened:
        first, second = (opened.add(each, tag="t" * 1000) for each in long)
        assert [entry.id for entry in opened.entries(model=long[0].model)] == [first]
        assert [entry.id for entry in opened.entries(model=long[1].model)] == [second]
        assert len(opened.entries(model=long[0].model)[0].tag) == 500
        assert opened.report(first).model == long[0].model


def test_a_server_that_is_not_there_is_said_without_its_password() -> None:
    with pytest.raises(StorageError) as caught, History("postgresql+psycopg://u:secret@127.0.0.1:9/db", wait_s=2):
        pass
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_a_locked_history_loses_no_verdict(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    with History(place(file)) as opened:
        opened.add(report())
    with sqlite3.connect(file) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match="locked"), History(place(file), wait_s=0.1) as opened:
            opened.add(report())
        holder.rollback()
    holder.close()
    with History(place(file)) as opened:
        assert len(opened.entries()) == 1


def test_a_read_only_history_is_an_error_only_where_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_root: bool
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("MOBILEKIT_HISTORY", str(blocked / "h.sqlite"))
    assert record(report()) is None
    with pytest.raises(StorageError):
        record(report(), str(blocked / "h.sqlite"))
    if not is_root:
        folder = tmp_path / "ro"
        folder.mkdir(mode=0o500)
        with pytest.raises(StorageError):
            record(report(), str(folder / "h.sqlite"))


def test_postgresql_without_its_driver_costs_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setenv("MOBILEKIT_HISTORY", "postgresql://nobody@localhost/nothing")
    assert record(report()) is None
    with pytest.raises(MissingExtraError):
        record(report(), "postgresql://nobody@localhost/nothing")


def test_a_history_that_cannot_be_used_costs_no_report(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    export_model(save(conv_classifier(), tmp_path / "m.onnx"), tmp_path / "b")
    history, made = tmp_path / "file" / "h.sqlite", tmp_path / "made.json"
    done = mobilekit(
        "validate", tmp_path / "b", "--device", "local", "--samples", 1, "--history", history, "--json", made
    )
    assert done.returncode == 4
    assert "history" in done.stderr
    assert json.loads(made.read_text("utf-8"))["verdict"] == "pass"


def test_a_newer_history_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    with History(place(file)):
        pass
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE mobilekit_about SET schema = 99")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(UsageError, match="schema 99"), History(place(file)):
        pass
    assert file.read_bytes() == before


def test_an_older_history_is_migrated_after_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "h.sqlite"
    with History(place(file)) as opened:
        opened.add(report())
    monkeypatch.setattr(store, "SCHEMA", 2)
    monkeypatch.setattr(store, "MIGRATIONS", {1: ["ALTER TABLE mobilekit_runs ADD COLUMN extra INTEGER DEFAULT 7"]})
    with History(place(file)) as opened:
        assert len(opened.entries()) == 1
    for path, schema, columns in ((file, 2, 1), (tmp_path / "h.sqlite.schema-1", 1, 0)):
        with sqlite3.connect(path) as connection:
            assert connection.execute("SELECT schema FROM mobilekit_about").fetchone() == (schema,)
            names = [row[1] for row in connection.execute("PRAGMA table_info(mobilekit_runs)")]
            assert names.count("extra") == columns
            assert connection.execute("SELECT count(*) FROM mobilekit_runs").fetchone() == (1,)
        connection.close()


def test_a_migration_that_fails_leaves_the_history_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "h.sqlite"
    with History(place(file)) as opened:
        opened.add(report())
    with monkeypatch.context() as patch:
        patch.setattr(store, "SCHEMA", 2)
        patch.setattr(store, "MIGRATIONS", {1: ["UPDATE mobilekit_runs SET model = 'gone'", "nonsense"]})
        with pytest.raises(StorageError), History(place(file)):
            pass
    with History(place(file)) as opened:
        assert [entry.model for entry in opened.entries()] == ["demo"]


def test_what_is_no_history_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to be read as a header" * 30)
    with pytest.raises(UsageError, match="no history"), History(place(tmp_path / "text")):
        pass
    with sqlite3.connect(tmp_path / "other") as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(UsageError, match="something else"), History(place(tmp_path / "other")):
        pass
    with pytest.raises(UsageError, match="mysql"):
        location("mysql://x/y")


def test_places() -> None:
    assert location("none") is None
    assert location("postgres://u@h/d") == "postgresql+psycopg://u@h/d"
    assert str(location(None)).startswith("sqlite:////")


def test_the_command_line_lists_shows_and_draws(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    with History(place(file)) as opened:
        for index in range(3):
            opened.add(report(sentence=f"run {index}"), tag=HOSTILE[0])
    listed = mobilekit("history", "--history", file, "--json")
    assert listed.returncode == 0, listed.stderr
    assert [entry["id"] for entry in json.loads(listed.stdout)] == [3, 2, 1]
    table = mobilekit("history", "--history", file, "--plot", tmp_path / "runs.html")
    assert table.returncode == 0, table.stderr
    assert "demo" in table.stdout
    page = (tmp_path / "runs.html").read_text("utf-8")
    assert page.count("<polyline") == 2
    assert "<script" not in page
    shown = mobilekit("history", "--history", file, "--show", "2")
    assert json.loads(shown.stdout)["sentence"] == "run 1"
    assert mobilekit("history", "--history", file, "--show", "9").returncode == 2
    empty = mobilekit("history")
    assert empty.returncode == 0
    assert "no runs" in empty.stderr
