"""The database of runs, through SQLAlchemy: SQLite by default, whatever a ``postgresql://`` URL names otherwise.

A run's report is kept whole, as its JSON; what is listed and searched stands in columns beside it. The schema's number
is in a table of its own. An older one is migrated, a SQLite file after a copy of it was put beside it; a newer one is
refused, never touched.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilekit.errors import MissingExtraError, StorageError, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, MetaData, Table

    from mobilekit.report.model import ValidationReport

__all__ = ["MIGRATIONS", "SCHEMA", "Entry", "History", "location", "must_be_there"]

SCHEMA = 1
MIGRATIONS: Mapping[int, Sequence[str]] = {}
"""What leads from a schema to the next: SQL that both databases know."""
_ALONE = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(1836016236)"}
_WAIT_S = 5.0
_NONE = ("none", "off")
_LONGEST = 500
"""Characters of a column: PostgreSQL refuses more."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One run. ``at`` in UTC; ``relative_l2``: the worst output's; ``tag``: the user's word for it (a commit, say)."""

    id: int
    at: datetime
    model: str
    model_sha256: str
    target: str
    precision: str
    device: str
    runner: str
    threads: int
    verdict: str
    relative_l2: float | None
    p50_ms: float | None
    comparable: bool
    tag: str


def location(given: str | None) -> str | None:
    """The database's URL: ``given``, else ``$MOBILEKIT_HISTORY``, else a file in the user's state folder; ``None``
    for ``none``. A path becomes a SQLite URL. Raises :class:`UsageError` for a database of another kind."""
    from mobilekit.paths import state_dir

    text = given or os.environ.get("MOBILEKIT_HISTORY") or str(state_dir() / "history.sqlite")
    if text.lower() in _NONE:
        return None
    scheme = re.match(r"([a-z0-9+]+)://", text)
    if scheme is None:
        return f"sqlite:///{Path(text).expanduser().absolute()}"
    if scheme[1] in ("postgresql", "postgres", "postgresql+psycopg"):
        return "postgresql+psycopg://" + text[scheme.end() :]
    if scheme[1] == "sqlite":
        return text
    raise UsageError(f"a history in {scheme[1]}:// is not known", hint="a file, or postgresql://user@host/database")


def must_be_there(given: str | None) -> None:
    """Raises :class:`UsageError` where ``given`` names a SQLite file that is absent: nothing can be read from it, and
    opening would make it."""
    url = location(given) if given else None
    file = None if url is None or not url.startswith("sqlite:") else url.removeprefix("sqlite:///")
    if file and not Path(file).exists():
        raise UsageError(f"there is no history at {file}", hint="mobilekit validate --history makes one")


class History:
    """A context manager around one database. What goes wrong with it is a :class:`StorageError` with its place (a
    password is never shown); what is no history of ours, or a newer one, a :class:`UsageError`."""

    def __init__(self, url: str, *, wait_s: float = _WAIT_S) -> None:
        from sqlalchemy import create_engine, make_url
        from sqlalchemy.exc import ArgumentError

        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError) as error:
            raise UsageError("the history's URL cannot be read", hint="postgresql://user@host/database") from error
        self.place = parsed.render_as_string(hide_password=True).removeprefix("sqlite:///")
        self._file = Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None
        options: dict[str, Any] = {"timeout": wait_s}
        if not self._file:
            # A server that was set up in the C locale says that its encoding is SQL_ASCII: text would come as bytes.
            options = {"connect_timeout": max(2, round(wait_s)), "client_encoding": "utf8"}
        try:
            self._engine: Engine = create_engine(parsed, connect_args=options)
        except ImportError as error:
            raise MissingExtraError("psycopg", extra="postgres", purpose="a history on PostgreSQL") from error
        self._runs: Table
        self._about: Table
        self._tables: MetaData
        self._tables, self._runs, self._about = _tables()

    def __enter__(self) -> History:
        if self._file is not None:
            _make_parent(self._file)
        with self._errors(), self._engine.connect() as connection:
            ready = self._schema(connection) == SCHEMA
        if not ready:
            with self._errors(), self._engine.begin() as connection:
                # One at a time: whoever comes second finds what the first has made.
                connection.exec_driver_sql(_ALONE[self._engine.dialect.name])
                self._prepare(connection)
        return self

    def __exit__(self, *exc: object) -> None:
        self._engine.dispose()

    def add(self, report: ValidationReport, *, tag: str = "", at: datetime | None = None) -> int:
        """Keep ``report``; its number."""
        from sqlalchemy import insert

        latency = report.latency
        values = {
            "at": (at or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None),
            "model": _short(report.model),
            "model_sha256": report.model_sha256,
            "target": report.target,
            "precision": report.precision,
            "device": _short(report.device.model or report.device.serial),
            "runner": _short(f"{report.device.runner} {report.device.runner_version}"),
            "threads": report.settings.threads,
            "verdict": report.verdict.value,
            "relative_l2": _finite(max((o.relative_l2 for o in report.outputs if o.evidence), default=None)),
            "p50_ms": None if latency is None else latency.p50_ms,
            "comparable": latency is not None and latency.comparable,
            "tag": _short(tag),
            "report": _clean(report.model_dump_json()),
        }
        with self._errors(), self._engine.begin() as connection:
            key = connection.execute(insert(self._runs).values(values)).inserted_primary_key
        assert key is not None
        return int(key[0])

    def entries(self, *, model: str | None = None, device: str | None = None, limit: int = 50) -> Sequence[Entry]:
        """The newest first; ``model`` and ``device`` exactly as listed."""
        from sqlalchemy import select

        columns = [column for column in self._runs.columns if column.name != "report"]
        query = select(*columns).order_by(self._runs.c.at.desc(), self._runs.c.id.desc()).limit(limit)
        if model is not None:
            query = query.where(self._runs.c.model == _short(model))
        if device is not None:
            query = query.where(self._runs.c.device == _short(device))
        with self._errors(), self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [Entry(**{**row, "at": row["at"].replace(tzinfo=UTC)}) for row in rows]

    def report(self, number: int) -> ValidationReport:
        """The whole report of one run. Raises :class:`UsageError` where there is none of that number."""
        from sqlalchemy import select

        from mobilekit.report.json import loads

        with self._errors(), self._engine.connect() as connection:
            found = connection.execute(select(self._runs.c.report).where(self._runs.c.id == number)).scalar()
        if found is None:
            raise UsageError(f"the history has no run {number}", hint="mobilekit history lists them")
        return loads(str(found))

    def _schema(self, connection: Connection) -> object:
        """``None`` where there are no tables of ours."""
        from sqlalchemy import inspect, select

        if not inspect(connection).has_table(self._about.name):
            return None
        return connection.execute(select(self._about.c.schema)).scalar()

    def _prepare(self, connection: Connection) -> None:
        """Make the tables, or bring older ones up to date."""
        from sqlalchemy import insert, inspect

        names = set(inspect(connection).get_table_names())
        if not {"mobilekit_runs", "mobilekit_about"} & names:
            if names and self._file is not None:
                raise UsageError(f"{self.place} is a database of something else", hint="name another file")
            self._tables.create_all(connection)
            connection.execute(insert(self._about).values(schema=SCHEMA))
            return
        there = self._schema(connection)
        if there == SCHEMA:
            return
        if not isinstance(there, int) or there > SCHEMA:
            raise UsageError(
                f"the history {self.place} has the schema {there}, newer than {SCHEMA}",
                hint="pip install -U mobilekit, or name another --history",
            )
        if self._file is not None:
            self._back_up(there)
        _migrate(connection, there)

    def _back_up(self, schema: int) -> None:
        """A whole copy beside the file, by SQLite's own means, which know of its journal."""
        assert self._file is not None
        copy = self._file.with_name(f"{self._file.name}.schema-{schema}")
        with sqlite3.connect(self._file) as source, sqlite3.connect(copy) as target:
            source.backup(target)
        source.close()
        target.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from sqlalchemy.exc import DatabaseError, SQLAlchemyError

        try:
            yield
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            if isinstance(error, DatabaseError) and "not a database" in reason:
                raise UsageError(f"{self.place} is no history: {reason}", hint="name another file") from error
            raise StorageError(f"the history {self.place} cannot be used: {reason}", hint=_hint(reason)) from error
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"the history {self.place} cannot be used: {error}", hint=_hint(str(error))) from error


def _hint(reason: str) -> str:
    if "locked" in reason:
        return "another mobilekit writes to it; try again, or --history none"
    if "readonly" in reason or "read-only" in reason or "unable to open" in reason:
        return "make the file and its folder writable, or --history none"
    return "--history none goes without"


def _tables() -> tuple[MetaData, Table, Table]:
    from sqlalchemy import Boolean, Column, DateTime, Float, Integer, MetaData, String, Table, Text

    tables = MetaData()
    runs = Table(
        "mobilekit_runs",
        tables,
        Column("id", Integer, primary_key=True),
        Column("at", DateTime, nullable=False, index=True),
        Column("model", String(_LONGEST), nullable=False, index=True),
        Column("model_sha256", String(64), nullable=False),
        Column("target", String(20), nullable=False),
        Column("precision", String(20), nullable=False),
        Column("device", String(_LONGEST), nullable=False),
        Column("runner", String(_LONGEST), nullable=False),
        Column("threads", Integer, nullable=False),
        Column("verdict", String(20), nullable=False),
        Column("relative_l2", Float),
        Column("p50_ms", Float),
        Column("comparable", Boolean, nullable=False),
        Column("tag", String(_LONGEST), nullable=False),
        Column("report", Text, nullable=False),
    )
    return tables, runs, Table("mobilekit_about", tables, Column("schema", Integer, nullable=False))


def _migrate(connection: Connection, schema: int) -> None:
    from sqlalchemy import text

    for number in range(schema, SCHEMA):
        for statement in MIGRATIONS[number]:
            connection.execute(text(statement))
    connection.execute(text("UPDATE mobilekit_about SET schema = :schema"), {"schema": SCHEMA})


def _clean(text: str) -> str:
    """PostgreSQL's texts hold no zero character, and no half of a surrogate pair."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _short(text: str) -> str:
    """What the columns hold: a longer text ends in a digest of the whole, so that two stay two."""
    clean = _clean(text)
    if len(clean) <= _LONGEST:
        return clean
    return f"{clean[: _LONGEST - 17]}~{hashlib.sha256(clean.encode()).hexdigest()[:16]}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and value == value and abs(value) < float("inf") else None


def _make_parent(file: Path) -> None:
    from mobilekit.paths import storage_errors

    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
