"""`pochi check`: every image decoded and compared before a training believes in them."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from pochitrain.config.loader import load_config
from pochitrain.config.schema import Config
from pochitrain.data.audit import (
    Finding,
    Picture,
    Severity,
    Step,
    Survey,
    Twins,
    cropped,
    describe,
    doubtful,
    duplicates,
    lost_area,
    small_classes,
    survey,
    twins,
    unreadable,
)
from pochitrain.data.decode import BrokenImage, decode_image, display_name
from pochitrain.data.folder import ImageFolder, check_same_classes, nested_roots
from pochitrain.data.remembered import cache_file
from pochitrain.data.source import AUTO, contradictions, find_images
from pochitrain.data.table import is_table, list_images
from pochitrain.durable import make_directory, remove, require_writable, write_text
from pochitrain.errors import ConfigError, DataError, PochiError, Problem
from pochitrain.locale import _
from pochitrain.reports.audit import THUMBNAIL, Pair, Table, draw_balance, draw_pairs, split_name, write_page
from pochitrain.sinks.console import Log
from pochitrain.tasks.prepare import task_name

SHOWN_PAIRS = 40
SAID_ERRORS = 20
# Parts of a transform that leave the picture's frame as it is; after any other one nobody knows what a crop takes.
_SAME_FRAME = {"ToTensor", "ToImage", "PILToTensor", "ToPILImage", "ToDtype", "ConvertImageDtype", "Grayscale", "RGB"}


def run_check(path: Path, overrides: Mapping[str, Any], output: Path | None) -> bool:
    """Look at every image of a config and write what is found; return whether a training could start.

    Raises:
        ConfigError: the config has a data set of its own.
        DataError: no data folder can be listed.
    """
    config = load_config(path, overrides)
    log = Log(config.log_level)
    output = output or Path(config.work_dir, task_name(config), "check")
    require_writable(output, "--output")
    folders, findings = _folders(config)
    surveys = _surveys(config, folders, log)
    pairs = twins(surveys)
    shown, lost = shown_pairs(pairs, _severity_of_unreadable(config))
    findings += _findings(config, surveys, pairs) + lost
    findings.sort(key=lambda finding: finding.severity)
    crop = _crop_line(config, surveys)
    _say(log, surveys, findings, crop)
    header = " · ".join(filter(None, [display_name(path), _verdict(findings), crop]))
    for file in _write(output, header, surveys, shown, len(pairs), findings):
        log.info(str(file))
    return all(finding.severity != "error" for finding in findings)


# ---- looking ----


def _folders(config: Config) -> tuple[dict[str, ImageFolder], list[Finding]]:
    """Return what can be listed, by split, and what is wrong with the rest."""
    if config.dataset is not None or config.train_data_root is None:
        raise ConfigError(
            _("pochi check looks at image folders, and this config has a data set of its own"),
            "dataset",
            _("to look at the folder train_data_root all the same, add --set dataset=None"),
        )
    try:
        train, val, notes = find_images(config)
    except (ConfigError, DataError) as error:
        return _what_can_be_listed(config, error)
    folders = {"train": train} if val is None else {"train": train, "val": val}
    return folders, [Finding("note", "warning", display_name(train.root), detail=note) for note in notes]


def _what_can_be_listed(config: Config, error: PochiError) -> tuple[dict[str, ImageFolder], list[Finding]]:
    """Return the folders that an error leaves, and everything that is wrong instead of the first thing."""
    folders: dict[str, ImageFolder] = {}
    problems: list[Problem] = []
    for split, root in (("train", config.train_data_root), ("val", config.val_data_root)):
        if root is None or root == AUTO:
            continue
        try:
            folders[split] = list_images(root, problems)
        except DataError as reason:
            problems += reason.problems
    if not folders:
        raise DataError(problems=problems)
    if config.val_data_root == AUTO and not problems:  # it can be listed, but not be split
        problems += error.problems
    findings = [_error("folder", problem) for problem in problems]
    if len(folders) == 2:
        try:
            check_same_classes(folders["train"], folders["val"])
        except DataError as differ:
            findings += [_error("classes", problem) for problem in differ.problems]
    return folders, findings + [
        Finding("note", "warning", display_name(folder.root), detail=note)
        for folder in folders.values()
        for note in folder.notes
    ]


def _error(kind: str, problem: Problem) -> Finding:
    remedy = f" ({_('mend: {mend}', mend=problem.mend)})" if problem.mend else ""
    return Finding(kind, "error", problem.where, detail=problem.what + remedy)


def _surveys(config: Config, folders: Mapping[str, ImageFolder], log: Log) -> list[Survey]:
    with _progress(log, sum(len(folder.files) for folder in folders.values())) as advance:
        try:
            found = [
                survey(split, folder, cache_file(config.work_dir, folder.root), advance)
                for split, folder in folders.items()
            ]
        except KeyboardInterrupt:
            log.warning(_("stopped; the next check goes on from here"))
            raise
    for each in found:
        for note in each.notes:
            log.warning(note)
    return found


@contextlib.contextmanager
def _progress(log: Log, total: int) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    silent = not log.console.is_terminal or log.level > 1
    with Progress(*columns, console=log.console, transient=True, disable=silent) as progress:
        task = progress.add_task(_("images"), total=total)
        yield lambda files: progress.advance(task, files)


def _findings(config: Config, surveys: Sequence[Survey], pairs: Sequence[Twins]) -> list[Finding]:
    found = []
    if len(surveys) == 2 and config.val_data_root != AUTO and not is_table(config.val_data_root or ""):
        train, val = (each.folder.root for each in surveys)
        if nested := nested_roots(train, val):
            found.append(Finding("nested", "warning", display_name(train), display_name(val), nested))
    for each in surveys:
        if each.split == "train":
            found += [_error("classes", problem) for problem in contradictions(config, each.folder.classes)]
    found += duplicates(pairs)
    steps = crop_steps(config.val_transform)
    for each in surveys:
        found += unreadable(each, _severity_of_unreadable(config))
        found += doubtful(each) + small_classes(each) + cropped(each, steps)
    return found


def _severity_of_unreadable(config: Config) -> Severity:
    return "error" if config.on_bad_image == "error" else "warning"


def crop_steps(transform: Any) -> list[Step]:
    """Return the resizes and centre crops at the beginning of a transform, as far as they can be told."""
    steps: list[Step] = []
    for part in getattr(transform, "transforms", [transform]):
        name = type(part).__name__
        if name == "Resize" and getattr(part, "max_size", None) is None:
            steps.append(("resize", _numbers(part.size)))
        elif name == "CenterCrop":
            steps.append(("crop", _pair(part.size)))
        elif name == "ImageClassification":  # the transform that comes with torchvision's weights
            return [*steps, ("resize", _numbers(part.resize_size)), ("crop", _pair(part.crop_size))]
        elif name not in _SAME_FRAME:
            break
    return steps


def _numbers(size: Any) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


def _pair(size: Any) -> tuple[int, ...]:
    numbers = _numbers(size)
    return numbers if len(numbers) == 2 else numbers * 2


# ---- telling ----


def kind_name(kind: str) -> str:
    """Return what a reader calls a kind of problem."""
    return {
        "folder": _("data folder that cannot be used"),
        "classes": _("classes that differ"),
        "unreadable": _("unreadable file"),
        "doubtful": _("damaged inside, or written carelessly"),
        "empty_class": _("class without a readable image"),
        "nested": _("folders inside each other"),
        "note": _("to know"),
        "leak": _("in training and in validation"),
        "near_leak": _("almost the same in training and in validation"),
        "two_classes": _("same picture in two classes"),
        "duplicate": _("duplicate"),
        "near_duplicate": _("almost a duplicate"),
        "small_class": _("very small class"),
        "crop": _("the crop takes much away"),
    }[kind]


def _severity(finding: Finding) -> str:
    return _("error") if finding.severity == "error" else _("warning")


def _kinds(findings: Sequence[Finding]) -> Table:
    counted = Counter((kind_name(finding.kind), _severity(finding)) for finding in findings)
    titles = (_("problem"), _("severity"), _("number"))
    return Table(titles, [(*names, f"{count:,}") for names, count in counted.items()])


def _data(surveys: Sequence[Survey]) -> Table:
    """Return what there is: a column for each split."""
    names = [_("images"), _("classes"), _("images per class"), _("smallest"), _("median"), _("largest")]
    names.append(_("width / height"))
    columns = (names, *map(_column, surveys))
    titles = ("", *(split_name(each.split) for each in surveys))
    return Table(titles, list(itertools.zip_longest(*columns, fillvalue="")))


def _column(survey: Survey) -> list[str]:
    facts, counts = survey.facts[survey.readable], survey.counts()
    column = [f"{len(facts):,}", f"{len(counts):,}", f"{min(counts):,} – {max(counts):,}"]
    if not len(facts):
        return column
    ordered = facts[np.argsort(facts["width"].astype(np.int64) * facts["height"], kind="stable")]
    sizes = [f"{ordered[at]['width']} × {ordered[at]['height']}" for at in (0, len(facts) // 2, -1)]
    ratios = facts["width"] / facts["height"]
    return [*column, *sizes, f"{ratios.min():.2f} – {ratios.max():.2f}"]


def _crop_line(config: Config, surveys: Sequence[Survey]) -> str:
    """Return what the crop of val_transform takes away, "" when there is none that can be told."""
    steps = crop_steps(config.val_transform)
    facts = np.concatenate([each.facts[each.readable] for each in surveys])
    if not len(facts) or all(kind != "crop" for kind, _size in steps):
        return ""
    lost = 100 * lost_area(facts["width"], facts["height"], steps)
    return _(
        "val_transform cuts off {median:.0f} % of the image area (median), {worst:.0f} % at worst",
        median=float(np.median(lost)),
        worst=float(lost.max()),
    )


def _verdict(findings: Sequence[Finding]) -> str:
    errors = sum(finding.severity == "error" for finding in findings)
    if not findings:
        return _("Nothing is wrong with the images.")
    return _("errors: {errors}, warnings: {warnings}", errors=errors, warnings=len(findings) - errors)


def _say(log: Log, surveys: Sequence[Survey], findings: Sequence[Finding], crop: str) -> None:
    log.table(_on_terminal(_data(surveys)))
    if crop:
        log.info(crop)
    errors = [finding for finding in findings if finding.severity == "error"]
    for finding in errors[:SAID_ERRORS]:
        log.info(f"{kind_name(finding.kind)}: {finding.file}: {finding.detail}")
    if len(errors) > SAID_ERRORS:
        log.info(_("and {count} more", count=len(errors) - SAID_ERRORS))
    if findings:
        log.table(_on_terminal(_kinds(findings)))
    log.info(_verdict(findings))


def _on_terminal(table: Table) -> RichTable:
    shown = RichTable(*table.titles, box=SIMPLE_HEAD)
    for row in table.rows:
        shown.add_row(*row)
    return shown


# ---- writing ----


def _write(
    output: Path, header: str, surveys: Sequence[Survey], shown: Sequence[Pair], pairs: int, findings: Sequence[Finding]
) -> list[Path]:
    """Write the report with those of the `pairs` that are shown, and return its files."""
    files = [output / name for name in ("report.html", "problems.csv", "balance.png", "pairs.png")]
    page, problems, balance, sheet = files
    make_directory(output)
    write_text(problems, problems_csv(findings), sync=False)
    counts = {each.split: dict(zip(each.folder.classes, each.counts(), strict=True)) for each in surveys}
    draw_balance(counts, balance)
    if shown:
        draw_pairs(shown, sheet)
    else:
        remove(sheet)  # an earlier check's
        files.remove(sheet)
    titles = (_("problem"), _("severity"), _("file"), _("other file"), _("detail"))
    rows = [(kind_name(it.kind), _severity(it), it.file, it.other, it.detail) for it in findings]
    write_page(
        page,
        header=header,
        kinds=_kinds(findings),
        data=_data(surveys),
        balance=balance,
        pairs=shown,
        more_pairs=pairs - len(shown),
        findings=Table(titles, rows),
    )
    return files


def problems_csv(findings: Sequence[Finding]) -> str:
    """Return the findings as CSV, with a byte order mark: without one, Excel takes Japanese for another encoding."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["kind", "severity", "file", "other_file", "detail"])
    writer.writerows((it.kind, it.severity, it.file, it.other, it.detail) for it in findings)
    return "\ufeff" + text.getvalue()


def shown_pairs(pairs: Sequence[Twins], severity: Severity) -> tuple[list[Pair], list[Finding]]:
    """Return (the pairs that are shown, what they lack): leaks first, and pictures in two classes before others.

    A file that was decoded earlier may be gone or lie on a failing disk by now: it is a finding, and its pairs are not
    shown.
    """
    ranked = sorted(pairs, key=lambda pair: (not pair.leak, pair.first.class_name == pair.second.class_name))
    chosen = ranked[:SHOWN_PAIRS]
    with ThreadPoolExecutor() as pool:
        first = pool.map(_thumbnail, [pair.first.path for pair in chosen])
        second = pool.map(_thumbnail, [pair.second.path for pair in chosen])
    shown, lost = list[Pair](), dict[str, str]()
    for pair, one, other in zip(chosen, first, second, strict=True):
        if isinstance(one, Image.Image) and isinstance(other, Image.Image):
            names = _name(pair.first), _name(pair.second)
            shown.append(Pair(kind_name(pair.kind), describe(pair), names, (one, other)))
        problems = [each.problems[0] for each in (one, other) if isinstance(each, BrokenImage)]
        lost |= {problem.where: problem.what for problem in problems}
    return shown, [Finding("unreadable", severity, file, detail=reason) for file, reason in lost.items()]


def _name(picture: Picture) -> str:
    return f"{split_name(picture.split)}: {display_name(picture.survey.folder.files[picture.index])}"


def _thumbnail(path: str) -> Image.Image | BrokenImage:
    try:
        image = decode_image(path)
    except BrokenImage as error:
        return error
    if (factor := THUMBNAIL // max(image.size)) > 1:
        return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image
