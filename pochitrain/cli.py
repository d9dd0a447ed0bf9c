"""Every verb and flag. A verb's module is imported when it is chosen: `pochi --help` loads no torch."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pochitrain.errors import PochiError
from pochitrain.locale import _

DEFAULT_CONFIG = Path("configs/pochi_train_config.py")

app = typer.Typer(
    help=_("Train, judge and search image classifiers from one Python file."),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help=_("Look at settings without training."), no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help=_("The config file."))]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help=_("Put a setting over the file's, e.g. optimizer=SGD.")),
]
DebugOption = Annotated[bool, typer.Option("--debug", help=_("Show the traceback of an error."))]
WorkDirOption = Annotated[Path, typer.Option("--work-dir", help=_("Where experiments are kept."))]


@app.command(help=_("Train the experiment of a config: begin it, continue it, or show its result."))
def train(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    epochs: Annotated[int | None, typer.Option(help=_("Train to so many epochs in total."))] = None,
    restart: Annotated[bool, typer.Option("--restart", help=_("Begin again; the old folder is kept aside."))] = False,
    strict_env: Annotated[
        bool, typer.Option("--strict-env", help=_("Refuse to continue under other versions or hardware."))
    ] = False,
    tags: Annotated[list[str] | None, typer.Option("--tag", help=_("Label the run; may be repeated."))] = None,
    debug: DebugOption = False,
) -> None:
    from pochitrain.tasks.command import run_train

    overrides = _overrides(set_)
    if epochs is not None:
        overrides["epochs"] = epochs
    if tags:
        overrides["tags"] = tags
    run_train(config, overrides, restart=restart, strict_env=strict_env)


@app.command("check", help=_("Look at every image: unreadable, twice there, in training and validation, cropped."))
def check_images(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    output: Annotated[
        Path | None, typer.Option(help=_("Where the report goes; work_dirs/<task>/check by default."))
    ] = None,
    debug: DebugOption = False,
) -> None:
    from pochitrain.tasks.check import run_check

    if not run_check(config, _overrides(set_), output):
        raise typer.Exit(3)


@config_app.command(help=_("Show every resolved setting as a tree."))
def show(config: ConfigOption = DEFAULT_CONFIG, set_: SetOption = None, debug: DebugOption = False) -> None:
    from pochitrain.tasks.config import show_config

    show_config(config, _overrides(set_))


@config_app.command(help=_("Check a config and its data without training."))
def check(config: ConfigOption = DEFAULT_CONFIG, set_: SetOption = None, debug: DebugOption = False) -> None:
    from pochitrain.tasks.config import check_config

    check_config(config, _overrides(set_))


@config_app.command(help=_("Print the JSON schema of all settings."))
def schema() -> None:
    from pochitrain.tasks.config import print_schema

    print_schema()


@config_app.command("id", help=_("Print the id of each config: its settings, code and data in 64 digits."))
def config_id(
    files: Annotated[list[Path], typer.Argument(help=_("Config files."))],
    set_: SetOption = None,
    explain: Annotated[bool, typer.Option("--explain", help=_("Show what the id is made of."))] = False,
    debug: DebugOption = False,
) -> None:
    from pochitrain.tasks.config import print_ids

    if not print_ids(files, _overrides(set_), explain):
        raise typer.Exit(2)


@config_app.command(help=_("Show in which settings two config files or experiments differ."))
def diff(first: str, second: str, work_dir: WorkDirOption = Path("work_dirs"), debug: DebugOption = False) -> None:
    from pochitrain.tasks.config import print_difference

    print_difference(work_dir, first, second)


@app.command("list", help=_("List all experiments."))
def list_(
    work_dir: WorkDirOption = Path("work_dirs"),
    sort: Annotated[
        str, typer.Option(help=_("Column to sort by: id, task, model, epochs, best, status, when, tags."))
    ] = "when",
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help=_("Largest first."))] = False,
    debug: DebugOption = False,
) -> None:
    from pochitrain.tasks.experiments import list_experiments

    list_experiments(work_dir, sort, reverse)


@app.command("show", help=_("Show what is known of one experiment."))
def show_experiment(
    experiment: Annotated[str, typer.Argument(help=_("The beginning of its id, its folder, or a file in it."))],
    work_dir: WorkDirOption = Path("work_dirs"),
    debug: DebugOption = False,
) -> None:
    from pochitrain.tasks.experiments import show_experiment as show_it

    show_it(work_dir, experiment)


def _overrides(assignments: list[str] | None) -> dict[str, Any]:
    from pochitrain.config.loader import parse_assignment

    return dict(parse_assignment(text) for text in assignments or [])


def main() -> None:
    """Run the command line. Errors for the reader go to stderr with their exit code; anything else is a bug, 1."""
    sys.exit(run(app))


def run(command: Callable[..., Any]) -> int:
    """Return the exit code of a command."""
    try:
        code = command(standalone_mode=False)
    except PochiError as error:
        _tell(str(error))
        if "--debug" in sys.argv:
            traceback.print_exc()
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except typer.Abort:
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):  # what the command line itself has against the arguments
            _tell(error.format_message())
            return 2
        return _unexpected(error)
    return code if isinstance(code, int) else 0  # of an Exit, and of a Ctrl+C, typer returns the code


def _unexpected(error: Exception) -> int:
    """Return 2 for an exception that the user's own code raised, showing the line of it; 1 for ours."""
    from pochitrain.config.mistakes import raised_by_user

    problem = raised_by_user(error)
    if problem is None or "--debug" in sys.argv:
        traceback.print_exc()
    if problem is None:
        _tell(_("This is a bug in pochitrain: please report it with the lines above."))
        return 1
    _tell(str(problem))
    return problem.exit_code


def _tell(text: str) -> None:
    try:
        print(text, file=sys.stderr)
    except UnicodeEncodeError:  # a terminal of another encoding
        encoding = sys.stderr.encoding or "ascii"
        print(text.encode(encoding, errors="replace").decode(encoding), file=sys.stderr)


if __name__ == "__main__":
    main()
