"""What the command line says of itself and of its arguments, in the reader's words: typer says it in English alone."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import version
from platform import python_version
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from pochitrain.errors import Problem
from pochitrain.locale import _

# What typer says, in any of its versions, and what we say.
_WORDS: dict[str, Callable[..., str]] = {
    r"No such command '(?P<name>.*?)'": lambda name: _("There is no command {name}", name=name),
    r"No such option: (?P<name>\S+)": lambda name: _("There is no option {name}", name=name),
    r"Missing (?:argument|option) '(?P<name>.*?)'": lambda name: _("{name} is missing", name=name),
    r"Got unexpected extra argument\S* \((?P<names>.*)\)": lambda names: _("Not understood: {names}", names=names),
    r"Option '(?P<name>.*?)' requires an": lambda name: _("{name} needs a value", name=name),
    r"Option '(?P<name>.*?)' does not take": lambda name: _("{name} takes no value", name=name),
    r"Invalid value for '(?P<name>.*?)': .*valid int": lambda name: _("{name} takes an integer", name=name),
    r"Invalid value for '(?P<name>.*?)': .*valid (?:number|float)": lambda name: _("{name} takes a number", name=name),
    r"Invalid value for '(?P<name>.*?)': .*(?:equal to |x>=)(?P<least>\d+)": lambda name, least: _(
        "{name} is at least {least}", name=name, least=least
    ),
}

# What stands in a help page around our own words.
_OF_HELP: dict[str, Callable[..., str]] = {
    r"^Usage:": lambda: _("Usage:"),
    r"^Arguments:$": lambda: _("Arguments:"),
    r"^Options:$": lambda: _("Options:"),
    r"^Commands:$": lambda: _("Commands:"),
    r"Show this message and exit\.": lambda: _("Show this message and exit."),
    r"\[default:\s+(?P<value>[^]]*)\]": lambda value: _("[default: {value}]", value=value),
    r"\[required\]": lambda: _("[required]"),
}


class Command(TyperCommand):
    def get_help(self, ctx: Any) -> str:
        return _in_words(super().get_help(ctx))


class Group(TyperGroup):
    def get_help(self, ctx: Any) -> str:
        return _in_words(super().get_help(ctx))


def _in_words(page: str) -> str:
    def ours(found: re.Match[str]) -> str:
        return _OF_HELP[found.re.pattern](**found.groupdict())

    for pattern in _OF_HELP:
        page = re.sub(pattern, ours, page, flags=re.MULTILINE)
    return page


def usage_problem(error: Any) -> Problem:
    """Return an error of typer's (anything with `format_message`) as what, where and how to mend it."""
    message = error.format_message()
    command = error.ctx.command_path if getattr(error, "ctx", None) else ""  # some do not know theirs
    found = next((match for pattern in _WORDS if (match := re.match(pattern, message))), None)
    if found is None:
        return Problem(message)
    mend = _("see {command} --help", command=command) if command else ""
    if near := re.search(r"(?:Did you mean|Possible options:) (.+?)[?)]", message):
        mend = _("did you mean {near}?", near=near[1].replace("'", ""))
    words = found.groupdict()
    name = words.get("names", words.get("name", ""))
    if command and name.endswith(".py") and (line := _with_config(name, error.ctx)):
        mend = line
    return Problem(_WORDS[found.re.pattern](**words), command, mend)


def _with_config(name: str, context: Any) -> str:
    """Return the command line with `--config` before a file that was given without; empty where that would be wrong."""
    given = sys.argv[1:]
    command = [] if any("--config" in each.opts for each in context.command.params) else ["train"]
    named = any(each.startswith(("-c", "--config")) for each in given)
    if named or given.count(name) != 1 or (command and given[0] != name):
        return ""
    at = given.index(name)
    return shlex.join(["pochi", *command, *given[:at], "--config", *given[at:]])


def show_versions(asked: bool) -> None:
    """Say what a report of a bug needs, and end."""
    if asked:
        names = ("pochitrain", "torch", "torchvision")
        typer.echo(", ".join([*(f"{name} {version(name)}" for name in names), f"Python {python_version()}"]))
        raise typer.Exit()
