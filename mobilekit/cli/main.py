"""The ``mobilekit`` program: registers the commands and maps errors to exit codes.

Command modules import only typer and the standard library at their top, so that ``--help`` stays fast; the library
is imported inside the command that needs it.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from mobilekit.errors import MobilekitError, SetupError, UnsupportedModelError

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
    app.callback()(_root)
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__))
    commands = [name for name in names if name != "main" and not name.startswith("_")]
    for name in [only] if only in commands else commands:
        importlib.import_module(f"mobilekit.cli.{name}").register(app)
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

    path = state_dir("crashes") / "last.txt"
    path.write_text("".join(traceback.format_exception(error)))
    print(f"error: internal error: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"hint: this is a bug in mobilekit; please report it with {path}", file=sys.stderr)


_AGAIN_S = 0.002


def _swallowed(frame: FrameType | None) -> bool:
    """Whether Python would print and forget an exception raised here: in a finaliser, or in importlib's callback."""
    while frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        if name == "__del__" or (name == "cb" and file == "<frozen importlib._bootstrap>"):
            return True
        frame = frame.f_back
    return False


def _unraised(given: sys.UnraisableHookArgs) -> None:
    """Other callbacks from C (of weak references, of libraries) forget an exception, too: then once more, later."""
    lost = given.exc_value
    if isinstance(lost, KeyboardInterrupt):
        number = int(signal.SIGINT)
    elif isinstance(lost, SystemExit) and isinstance(lost.code, int) and lost.code > 128:
        number = lost.code - 128
    else:
        sys.__unraisablehook__(given)
        return
    signal.signal(signal.SIGALRM, lambda _, later: _unwind(number, later))
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)


def _unwinding() -> bool:
    """Whether this runs within the cleaning up after an interruption."""
    error: BaseException | None = sys.exception()
    while error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
        error = error.__context__
    return error is not None


def _unwind(number: int, frame: FrameType | None) -> None:
    """Ctrl-C and a polite kill unwind, so that temporary files and children go; a second kill waits. Where it would be
    lost it is tried again a moment later."""
    if _swallowed(frame):
        signal.signal(signal.SIGALRM, lambda _, later: _unwind(number, later))
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        return
    # C code may clear an exception without a word: where nothing is unwinding half a second later, once more.
    signal.signal(signal.SIGALRM, lambda _, later: None if _unwinding() else _unwind(number, later))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    for other in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def run() -> NoReturn:
    """Entry point: run the command line and leave with the exit code of design decision 8."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, a shell's background job
            signal.signal(number, _unwind)
    sys.unraisablehook = _unraised
    # numpy's BLAS starts a thread a core when it is imported (a third of its time); nothing here multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        app = make_app(sys.argv[1] if len(sys.argv) > 1 else None)
        code = app(standalone_mode=False) or 0
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is done: too late to interrupt it
        sys.exit(code)
    except MobilekitError as error:
        _report(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _interrupted()
    except MemoryError:
        print("error: there is not enough memory for this model", file=sys.stderr)
        print("hint: give smaller input shapes, or close other programs", file=sys.stderr)
        sys.exit(SetupError.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:
        # Newer typers bring a copy of click's exceptions of their own: told by what they can do.
        if type(error).__name__ == "Abort":
            _interrupted()
        if isinstance(code := getattr(error, "exit_code", None), int) and hasattr(error, "show"):
            error.show()
            sys.exit(code)
        _internal(error)
        sys.exit(SetupError.exit_code)


def _interrupted() -> NoReturn:
    # Everything has unwound. Not sys.exit: where the interrupt came inside an exec (a dataclass being made), Python
    # remembers it and ends by killing itself with SIGINT instead of giving the exit code.
    print("interrupted", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(130)
