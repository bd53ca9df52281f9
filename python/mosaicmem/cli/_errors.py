"""How failures are reported: one line on standard error, and an exit code that tells wrong usage from failure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ParamSpec, get_type_hints

import typer
from typer.models import OptionInfo

_P = ParamSpec("_P")

FAILED, WRONG_USAGE = 1, 2


class UsageError(ValueError):
    """Wrong usage: an invalid value of an option, or incompatible options. Exit code 2."""


def reports_errors(command: Callable[_P, None]) -> Callable[_P, None]:
    """Turn a failure into one line on standard error.

    The exit code is 2 for a `UsageError` and 1 for anything else. With ``debug=True`` the traceback comes first.
    """

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        """The command, whose failures become a line on standard error."""
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.BadParameter):
            raise
        except Exception as error:
            if kwargs.get("debug"):
                import traceback

                traceback.print_exc()
            message = _name_option(_message(error), command)
            typer.echo(f"mosaicmem: error: {' '.join(message.split())}", err=True)
            raise typer.Exit(WRONG_USAGE if isinstance(error, UsageError) else FAILED) from None

    return run


def _message(error: Exception) -> str:
    from pydantic import ValidationError

    from mosaicmem.errors import describe_validation

    if isinstance(error, ValidationError):
        return describe_validation(error)
    if type(error) is FileNotFoundError and error.filename and error.strerror:
        return f"{error.filename}: no such file or folder"
    return str(error) or type(error).__name__


def _name_option(message: str, command: Callable[..., None]) -> str:
    """Replace the parameter that a library message begins with by the command's option of that name, if any."""
    name = message.partition(":")[0]
    if not name.isidentifier():
        return message
    hint = get_type_hints(command, include_extras=True).get(name)
    for declared in getattr(hint, "__metadata__", ()):
        if isinstance(declared, OptionInfo):
            words = [word for word in declared.param_decls or () if word.startswith("--")]
            return (words[0] if words else f"--{name.replace('_', '-')}") + message[len(name) :]
    return message


@contextmanager
def blames(options: Mapping[str, str]) -> Iterator[None]:
    """Turn a library ValueError or TypeError about a parameter into a `UsageError` about the option that set it.

    ``options`` maps names of parameters, with which library messages begin, to names of options. Errors about anything
    else, and a FormatError, pass unchanged.
    """
    from mosaicmem.errors import FormatError

    try:
        yield
    except FormatError:
        raise
    except (ValueError, TypeError) as error:
        name, colon, rest = str(error).partition(": ")
        if colon and name in options:
            raise UsageError(f"{options[name]}: {rest}") from None
        raise


def check_choice(name: str, text: str, choices: Sequence[str]) -> str:
    """``text``, if it is one of ``choices``."""
    if text not in choices:
        raise UsageError(f"{name}: expected {', '.join(choices[:-1])} or {choices[-1]}, got {text!r}")
    return text


def check_useful(given: Mapping[str, object], because: str) -> None:
    """Reject options that were given but would have no effect.

    Parameters
    ----------
    given : mapping of str to object
        Values by name of option; one that is None, False or empty was not given.
    because : str
        What they need, such as "expected --trajectory with it".
    """
    idle = [name for name, value in given.items() if value is not None and value is not False and value != []]
    if idle:
        raise UsageError(f"{', '.join(idle)}: {because}; without it there is nothing to apply {_them(idle)} to")


def _them(names: Sequence[str]) -> str:
    return "them" if len(names) > 1 else "it"
