"""Every verb and flag. A verb's module is imported when it is chosen: `pochi --help` loads no torch."""

from __future__ import annotations

import atexit
import errno
import io
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pochitrain.durable import disk_error
from pochitrain.errors import PochiError
from pochitrain.leaving import leave, silence, spare_libraries
from pochitrain.locale import _
from pochitrain.usage import Command, Group, show_versions, usage_problem

INTERRUPTED = 130  # 128 + SIGINT
DEFAULT_CONFIG = Path("configs/pochi_train_config.py")

app = typer.Typer(
    cls=Group,
    help=_("Train, judge and search image classifiers from one Python file."),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(
    cls=Group, help=_("Look at settings without training."), no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(config_app, name="config")
cache_app = typer.Typer(
    cls=Group, help=_("Look at the decoded images on the disk."), no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(cache_app, name="cache")

ConfigOption = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help=_("The config file."))]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help=_("Put a setting over the file's, e.g. optimizer=SGD.")),
]
DebugOption = Annotated[bool, typer.Option("--debug", help=_("Show the traceback of an error."))]
WorkDirOption = Annotated[Path, typer.Option("--work-dir", metavar="DIR", help=_("Where experiments are kept."))]


@app.callback()
def pochi(
    versions: Annotated[
        bool, typer.Option("--version", callback=show_versions, is_eager=True, help=_("Show the versions and exit."))
    ] = False,
) -> None:
    pass


@app.command(help=_("Train: begin, continue, or show the result."))
def train(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help=_("Train to so many epochs in total."))] = None,
    restart: Annotated[bool, typer.Option("--restart", help=_("Begin again; the old folder is kept aside."))] = False,
    strict_env: Annotated[
        bool, typer.Option("--strict-env", help=_("Refuse to continue under other versions or hardware."))
    ] = False,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME", help=_("Label the run; may be repeated."))
    ] = None,
    debug: DebugOption = False,
) -> None:
    from pochitrain.tasks.command import run_train

    spare_libraries()
    overrides = _overrides(set_)
    if epochs is not None:
        overrides["epochs"] = epochs
    if tags:
        overrides["tags"] = tags
    run_train(config, overrides, restart=restart, strict_env=strict_env)


@app.command(
    help=_("Kill short trainings of a config, let them go on, and compare every bit with a straight one (exit code 6).")
)
def verify_resume(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help=_("Batches in each of the two epochs."))] = 4,
    debug: DebugOption = False,
) -> None:
    from pochitrain.tasks.verify import run_verify

    if code := run_verify(config, _overrides(set_), steps):
        raise typer.Exit(code)


@app.command("check", help=_("Check every image before training: unreadable files, duplicates, leaks, classes, crops."))
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


@app.command(help=_("Search settings: train trials of a config with other values, and say which were best."))
def optimize(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    output: Annotated[
        Path | None, typer.Option(help=_("Where the results go; work_dirs/optuna_results by default."))
    ] = None,
    n_trials: Annotated[int | None, typer.Option(help=_("Search so many trials in total."))] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="MINUTES", help=_("Begin no trial after so many minutes."))
    ] = None,
    debug: DebugOption = False,
) -> None:
    from pochitrain.tasks.optimize import run_optimize

    spare_libraries()
    overrides = _overrides(set_)
    if n_trials is not None:
        overrides["optuna.n_trials"] = n_trials
    if timeout is not None:
        overrides["optuna.timeout_minutes"] = timeout
    run_optimize(config, overrides, output)


@cache_app.command("list", help=_("Show what the cache on the disk holds."))
def list_cached(debug: DebugOption = False) -> None:
    from pochitrain.tasks.cache import list_cache

    list_cache()


@cache_app.command("clear", help=_("Remove what the cache on the disk holds."))
def clear_cached(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help=_("The beginning of one key; without: all."))
    ] = None,
    debug: DebugOption = False,
) -> None:
    from pochitrain.tasks.cache import clear_cache

    clear_cache(key)


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

    if code := print_ids(files, _overrides(set_), explain):
        raise typer.Exit(code)


@config_app.command(help=_("Show in which settings two config files or experiments differ."))
def diff(first: str, second: str, work_dir: WorkDirOption = Path("work_dirs"), debug: DebugOption = False) -> None:
    from pochitrain.tasks.config import print_difference

    print_difference(work_dir, first, second)


@app.command("list", help=_("List all experiments."))
def list_(
    work_dir: WorkDirOption = Path("work_dirs"),
    sort: Annotated[
        str, typer.Option(help=_("Column to sort by: id, task, model, epochs, best, monitor, status, when, tags."))
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


@app.command(help=_("Compare experiments on the same images: settings, metrics, classes, what one fixes or breaks."))
def compare(
    experiments: Annotated[list[str], typer.Argument(help=_("Two or more: the beginnings of ids, or folders."))],
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help=_("Labelled images; by default the validation images common to all.")),
    ] = None,
    allow_missing_classes: Annotated[
        bool, typer.Option("--allow-missing-classes", help=_("The folder may hold some of the classes only."))
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=_("The HTML file; in work_dirs/compare by default."))
    ] = None,
    device: Annotated[str | None, typer.Option(help=_("cpu, cuda, cuda:1, mps; the training's by default."))] = None,
    work_dir: WorkDirOption = Path("work_dirs"),
    debug: DebugOption = False,
) -> None:
    from pochitrain.tasks.compare import compare as compare_them

    compare_them(
        experiments,
        work_dir,
        data=[str(data)] if data else [],
        allow_missing=allow_missing_classes,
        output=output,
        device=device,
    )


@app.command(help=_("Judge images with a trained model: labelled ones get a report, others their predictions."))
def infer(
    experiment: Annotated[str, typer.Argument(help=_("The beginning of its id, its folder, or a .pt file."))],
    files: Annotated[list[str] | None, typer.Argument(help=_("Image files; as --data."))] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", "-d", help=_("A folder, a table, files or a pattern; validation data by default.")),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=_("Folder of the results; in the experiment by default."))
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help=_("Images at once; as in the training by default."))
    ] = None,
    device: Annotated[str | None, typer.Option(help=_("cpu, cuda, cuda:1, mps; the training's by default."))] = None,
    top_k: Annotated[int, typer.Option(min=1, help=_("Classes listed for each image."))] = 5,
    tta: Annotated[bool, typer.Option("--tta", help=_("Average each image with its mirror image."))] = False,
    allow_missing_classes: Annotated[
        bool, typer.Option("--allow-missing-classes", help=_("The folder may hold some of the classes only."))
    ] = False,
    sort_into: Annotated[
        Path | None, typer.Option(help=_("Link the images into folders of the predicted classes."))
    ] = None,
    target_precision: Annotated[
        float | None, typer.Option(help=_('Answer "unknown" below the confidence that this precision needs.'))
    ] = None,
    check_precision: Annotated[
        bool, typer.Option("--check-precision", help=_("Count the answers that are other ones in fp32."))
    ] = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help=_("Draw pictures and the HTML page."))] = True,
    work_dir: WorkDirOption = Path("work_dirs"),
    debug: DebugOption = False,
) -> None:
    from pochitrain.tasks.infer import Wish
    from pochitrain.tasks.infer import infer as run_infer

    spare_libraries()
    wish = Wish(
        images=[*(data or ()), *(files or ())],
        output=output,
        batch_size=batch_size,
        device=device,
        top_k=top_k,
        tta=tta,
        allow_missing_classes=allow_missing_classes,
        sort_into=sort_into,
        target_precision=target_precision,
        check_precision=check_precision,
        report=report,
    )
    run_infer(experiment, wish, work_dir=work_dir)


@app.command(help=_("Calibrate the confidence of a trained model on labelled images."))
def calibrate(
    experiment: Annotated[str, typer.Argument(help=_("The beginning of its id, its folder, or a .pt file."))],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", "-d", help=_("A labelled folder or table; validation data by default.")),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help=_("Images at once; as in the training by default."))
    ] = None,
    device: Annotated[str | None, typer.Option(help=_("cpu, cuda, cuda:1, mps; the training's by default."))] = None,
    work_dir: WorkDirOption = Path("work_dirs"),
    debug: DebugOption = False,
) -> None:
    from pochitrain.tasks.calibrate import calibrate as run_calibrate

    run_calibrate(experiment, data or (), batch_size=batch_size, device=device, work_dir=work_dir)


def _overrides(assignments: list[str] | None) -> dict[str, Any]:
    from pochitrain.config.loader import parse_assignment

    return dict(parse_assignment(text) for text in assignments or [])


for group in (app, config_app, cache_app):
    for registered in group.registered_commands:
        registered.cls = Command


def main() -> None:
    """Be the process of a command. Errors for the reader go to stderr with their exit code; a bug is 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of another encoding
    code = 1
    atexit.register(lambda: leave(code))  # the first one in is called last, when all threads are over
    code = run(app)
    sys.exit(code)


def run(command: Callable[..., Any]) -> int:
    """Return the exit code of a command, when all that it says is written."""
    try:
        code = command(standalone_mode=False)
        if sys.stdout is not None:  # closed before we began
            sys.stdout.flush()
    except PochiError as error:
        print(error, file=sys.stderr)
        if "--debug" in sys.argv:
            traceback.print_exc()
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        silence()
        return 0
    except OSError as error:
        if error.filename or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            return _unexpected(error)
        full = disk_error(error, Path("stdout"))  # all files of ours are written by `durable`
        print(full, file=sys.stderr)
        silence()
        return full.exit_code
    except (Exception, SystemExit) as error:
        if isinstance(error.__context__, BrokenPipeError):  # what typer makes of it
            silence()
            return 0
        if hasattr(error, "format_message"):  # what the command line itself has against the arguments
            print(usage_problem(error), file=sys.stderr)
            return 2
        return _unexpected(error)
    if code == INTERRUPTED:  # typer's answer to Ctrl+C outside of a training, which says more
        print(_("Interrupted"), file=sys.stderr)
    return code if isinstance(code, int) else 0  # of an Exit typer returns the code


def _unexpected(error: BaseException) -> int:
    """Return 2 for an exception that the user's own code raised, showing the line of it; 1 for ours."""
    from pochitrain.config.mistakes import raised_by_user

    problem = raised_by_user(error)
    if problem is None or "--debug" in sys.argv:
        traceback.print_exc()
    if problem is None:
        print(_("This is a bug in pochitrain: please report it with the lines above."), file=sys.stderr)
        return 1
    print(problem, file=sys.stderr)
    return problem.exit_code


if __name__ == "__main__":
    main()
