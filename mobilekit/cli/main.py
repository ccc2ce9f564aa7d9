"""The ``mobilekit`` program: registers the commands and maps errors to exit codes.

Command modules import only typer and the standard library at their top, so that ``--help`` stays fast; the library
is imported inside the command that needs it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from mobilekit import interrupts
from mobilekit.cli._plain import PlainGroup, take_plainly
from mobilekit.errors import MobilekitError, SetupError, UnsupportedModelError, UsageError

__all__ = ["make_app", "run"]


def _version(value: bool) -> None:
    if value:
        from mobilekit import __version__

        typer.echo(f"mobilekit {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """ONNX models on real devices: convert, push over adb, run, and judge against a desktop reference.

    \b
    mobilekit export model.onnx --target ncnn -o build/model
    mobilekit validate build/model --device virtual
    mobilekit doctor                      what this machine has and lacks

    \b
    Exit codes: 0 pass, 1 fail, 2 usage or unreadable model, 3 inconclusive,
    4 device or environment, 5 unsupported model, 130 Ctrl-C.
    """


def make_app(only: str | None = None) -> typer.Typer:
    """The program; each command lives in the file of its name. ``only``: the others are left out if it is one."""
    import importlib
    import pkgutil

    import mobilekit.cli as package

    app = typer.Typer(
        name="mobilekit",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
    )
    app.callback(cls=PlainGroup)(_root)
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__))
    commands = [name for name in names if name != "main" and not name.startswith("_")]
    for name in [only] if only in commands else commands:
        importlib.import_module(f"mobilekit.cli.{name}").register(app)
    take_plainly(app)
    return app


def _report(error: MobilekitError) -> None:
    from mobilekit.cli._common import remark

    remark(f"error: {error.message}")
    if isinstance(error, UnsupportedModelError):
        for finding in error.findings:
            remark(f"  {finding.op} at {finding.node}: {finding.reason}")
            if finding.remedy:
                remark(f"    remedy: {finding.remedy}")
    for line in error.hint.splitlines():
        remark(f"hint: {line}")


def _internal(error: Exception) -> None:
    """A bug of ours: keep the traceback in a file for the report, out of the user's way."""
    import traceback

    from mobilekit.paths import state_dir

    print(f"error: internal error: {type(error).__name__}: {error}", file=sys.stderr)
    told = "".join(traceback.format_exception(error))
    try:
        path = state_dir("crashes") / "last.txt"
        path.write_text(told, encoding="utf-8", errors="backslashreplace")
    except (MobilekitError, OSError, RuntimeError):  # no home, no room, no right to write: then here
        print(f"hint: this is a bug in mobilekit; please report it with this:\n{told}", file=sys.stderr)
    else:
        print(f"hint: this is a bug in mobilekit; please report it with {path}", file=sys.stderr)


_OF_THE_MACHINE = {
    errno.EACCES: "you may not read or write it: give another, or change its permissions",
    errno.EDQUOT: "free some space",
    errno.EIO: "the disk fails: use another",
    errno.ELOOP: "it is a link to itself: give another path",
    errno.EMFILE: "raise the limit of open files: ulimit -n 1024",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENFILE: "close other programs: the system has too many files open",
    errno.ENOSPC: "free some space",
    errno.EPERM: "you may not read or write it: give another, or change its permissions",
    errno.EROFS: "nothing can be written there: give another folder",
}
"""What the machine says and no bug of ours causes, and the remedy."""


def _exit_code(error: BaseException) -> int:
    """Say what went wrong."""
    if isinstance(error, MobilekitError):
        _report(error)
        return error.exit_code
    if isinstance(error, MemoryError):
        print("error: there is not enough memory for this model", file=sys.stderr)
        print("hint: give smaller input shapes, or close other programs", file=sys.stderr)
        return SetupError.exit_code
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):  # click leaves with 1
        sys.stderr.close()
        return 128 + signal.SIGPIPE
    if not isinstance(error, Exception):
        raise error
    # Newer typers bring a copy of click's exceptions of their own: told by what they can do.
    if isinstance(code := getattr(error, "exit_code", None), int) and hasattr(error, "show"):
        error.show()
        return code
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        from mobilekit.cli._common import remark

        remark(f"error: {error.filename or 'what it reads or prints'}: {error.strerror}")
        remark(f"hint: {_OF_THE_MACHINE[error.errno]}")
        return UsageError.exit_code if error.errno in (errno.ELOOP, errno.ENAMETOOLONG) else SetupError.exit_code
    _internal(error)
    return SetupError.exit_code


def _open_streams() -> None:
    """A closed stream becomes the null device: else the next file opened gets its number, and all that is printed."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    # Python leaves None for what is closed, which has none of a stream's methods.
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def run() -> NoReturn:
    """Entry point: run the command line and leave with the exit code of design decision 8."""
    _open_streams()
    interrupts.install()
    # numpy's BLAS starts a thread a core when it is imported (a third of its time); nothing here multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = 0
    try:
        code = make_app(sys.argv[1] if len(sys.argv) > 1 else None)(standalone_mode=False) or 0
    except BaseException as error:
        if not interrupts.settle():  # else, whatever the interruption became on its way, it is not the matter
            code = _exit_code(error)
    interrupts.leave(code)
