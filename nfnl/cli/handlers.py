"""Handlers of the user's own, by name: ``MODULE:FUNCTION``."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable

import click

import nfnl

Handler = Callable[[nfnl.QueuedPacket], object]


def load(name: str) -> Handler:
    """The function. Raises ClickException where there is none; what its module raises comes out."""
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise click.BadParameter(f"{name!r} is not MODULE:FUNCTION, as in firewall:judge", param_hint="--handler")
    sys.path.insert(0, "")  # as python -m has it
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, but something it needs is not
        advice = f"; a module is named as in an import: {module_name[:-3]}" if module_name.endswith(".py") else ""
        raise click.ClickException(f"there is no module {module_name!r} here or on Python's path{advice}") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        close = difflib.get_close_matches(function_name, [n for n, value in vars(module).items() if callable(value)], 3)
        what = "no function" if function is None else f"a {type(function).__name__}, no function,"
        raise click.ClickException(f"in {module_name} there is {what} {function_name!r}{near(close)}")
    handler: Handler = function
    return handler


def near(names: list[str]) -> str:
    """``; is it 'this' or 'that'?``"""
    return f"; is it {' or '.join(map(repr, names))}?" if names else ""
