"""What a zoo entry says: one TOML file in ``model_zoo/``, and where its bytes come from."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mobilekit.errors import UsageError
from mobilekit.fields import wrong_fields
from mobilekit.paths import data_dir
from mobilekit.preprocess import Preprocess

__all__ = [
    "FileSource",
    "Labels",
    "PypiSource",
    "Source",
    "UrlSource",
    "ZooEntry",
    "entry_ids",
    "load_entry",
    "read_entry",
    "zoo_folders",
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
    """A file on this machine, relative to the folder of the entry's own TOML file."""

    file: str = Field(min_length=1)
    sha256: Sha256 | None = None


Source: TypeAlias = PypiSource | UrlSource | FileSource


class Labels(_Frozen):
    """One class a line: a file in the folder ``labels`` beside the entries, or one fetched like the model.

    ``sha256`` is that of the fetched text. ``format``: ``lines``, or ``json`` (a list of names, or an object from
    index to name), taken from the object's member ``key`` where that is given.
    """

    file: InnerPath | None = None
    source: PypiSource | UrlSource | None = None
    sha256: Sha256 | None = None
    format: Literal["lines", "json"] = "lines"
    key: str | None = None
    license: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Labels:
        if (self.file is None) == (self.source is None):
            raise ValueError("give either file or source")
        if self.source is not None and self.sha256 is None:
            raise ValueError("labels from a source need a sha256")
        return self


class ZooEntry(_Frozen):
    """One model. ``sha256`` and ``size_bytes`` are those of the file as its source gives it.

    ``license`` is an SPDX identifier where there is one, else words. ``inputs`` are the default shapes by ONNX name;
    ``fixed`` gives inputs a value, with which they are no inputs of the converted model any more.
    ``prepare`` names the recipe that makes an ONNX model of a file that is none. ``limit_bytes`` bounds what is
    unpacked. ``tolerance`` is the relative L2 error that a right fp32 conversion stays below, where the default does
    not fit. ``folder`` is where the entry was read; a TOML file does not say it.
    """

    id: str
    title: str
    source: Source
    sha256: Sha256 | None = None
    size_bytes: int | None = Field(default=None, gt=0)
    limit_bytes: int = Field(default=_DEFAULT_LIMIT_BYTES, gt=0)
    license: str
    license_note: str = ""
    task: Literal["classification", "detection", "recognition", "segmentation", "audio", "other"] = "other"
    inputs: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    fixed: dict[str, float | int | bool | list[Any]] = Field(default_factory=dict)
    preprocess: Preprocess | None = None
    labels: Labels | None = None
    tolerance: float | None = Field(default=None, gt=0)
    prepare: Literal["none", "torchvision-mobilenet-v2", "efficientnet-lite0"] = "none"
    origin: str = ""
    folder: Path | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def _checked(self) -> ZooEntry:
        if isinstance(self.source, PypiSource) and self.sha256 is None:
            raise ValueError("a model from a package needs its own sha256")
        if any(axis < 1 for shape in self.inputs.values() for axis in shape):
            raise ValueError("every axis of an input must be at least 1")
        return self

    @property
    def model_sha256(self) -> str | None:
        """What the model's bytes must hash to, as its source gives them; ``None`` for an unchecked local file."""
        return self.sha256 or (None if isinstance(self.source, PypiSource) else self.source.sha256)


def zoo_folders() -> tuple[Path, ...]:
    """Where entries are: ``$MOBILEKIT_ZOO`` where it is set, then the ``model_zoo`` that ships with the package."""
    own = os.environ.get("MOBILEKIT_ZOO")
    if own and not Path(own).is_dir():
        raise UsageError(f"MOBILEKIT_ZOO names {own}, which is no folder", hint="unset it, or create the folder")
    return (*((Path(own),) if own else ()), data_dir("model_zoo"))


def entry_ids() -> tuple[str, ...]:
    """The ids of all entries, sorted."""
    return tuple(sorted({path.stem for folder in zoo_folders() for path in folder.glob("*.toml")}))


def load_entry(id_: str) -> ZooEntry | None:
    """The entry called ``id_``, or ``None``; :class:`UsageError` where its file does not follow the schema."""
    if _ID.fullmatch(id_):
        for folder in zoo_folders():
            if (path := folder / f"{id_}.toml").is_file():
                return read_entry(path)
    return None


def read_entry(path: Path) -> ZooEntry:
    """One TOML file. Raises :class:`UsageError` naming each field that is wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        if "folder" in content:
            raise UsageError(f"{path} is no valid zoo entry", hint="folder: not for an entry to say")
        entry = ZooEntry.model_validate({**content, "folder": path.parent})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}", hint="correct the file") from error
    except ValidationError as error:
        raise UsageError(f"{path} is no valid zoo entry", hint="\n".join(wrong_fields(error))) from error
    if entry.id != path.stem:
        raise UsageError(f"{path} calls itself {entry.id!r}", hint="the id is the file's name without .toml")
    return entry
