"""`pochi compare`: experiments side by side, judged on the same images."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pochitrain import durable
from pochitrain.config.identity import Identity
from pochitrain.data.folder import display_name, manifest_difference
from pochitrain.data.pick import Picked
from pochitrain.engine.calibration import Calibration
from pochitrain.engine.predict import Predictions
from pochitrain.errors import ConfigError, DataError
from pochitrain.experiment import ID_LENGTH, Experiment
from pochitrain.history import History
from pochitrain.locale import _
from pochitrain.reports.comparison import Contender, differing, duel, recall_changes, verdict, write_comparison
from pochitrain.reports.evaluation import evaluate_predictions
from pochitrain.reports.numbers import flat_settings, interval, is_share, metric_name, number
from pochitrain.sinks.console import Log
from pochitrain.tasks.judge import Judge
from pochitrain.tasks.prepare import read_data_manifest, read_identity

CHANGES = 10  # classes in the terminal
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Entrant:
    """An experiment that is to be compared: its model, its images, and what it was made of."""

    letter: str
    experiment: Experiment
    judge: Judge
    picked: Picked
    identity: Identity
    calibration: Calibration | None

    @property
    def title(self) -> str:
        """The id, and which weights answer where it is not the best ones."""
        loaded = self.judge.loaded
        return loaded.id[:ID_LENGTH] + ("" if loaded.path.stem == "best" else f" {loaded.path.stem}")


def compare(
    names: Sequence[str],
    work_dir: Path,
    *,
    data: Sequence[str] = (),
    allow_missing: bool = False,
    output: Path | None = None,
    device: str | None = None,
    log: Log | None = None,
) -> Path:
    """Judge experiments on the same images; print what differs and return the path of one HTML page.

    Args:
        names: two experiments or more, by the beginnings of their ids or by their folders; the first one is what the
            others are held against.
        data: labelled images; without any, the validation images that all experiments have in common.
        allow_missing: `data` may hold some of the classes only.

    Raises:
        ConfigError: a name means no experiment, or fewer than two are named.
        DataError: an experiment has no model, their classes differ, or they have no validation image in common.
        DiskError: the page cannot be written.
    """
    if not 2 <= len(names) <= len(LETTERS):
        raise ConfigError(
            _("Two to {most} experiments can be compared; given: {count}", most=len(LETTERS), count=len(names)),
            "pochi compare",
            _("name them by the beginnings of their ids or by their folders; `pochi list` shows them"),
        )
    log = log or Log()
    entrants = []
    for letter, name in zip(LETTERS, names, strict=False):
        log.info(f"-- {letter}")
        entrants.append(_entrant(letter, Judge.of(work_dir, name, device, None, log), data, allow_missing))
    chosen = common_images(entrants)
    path = output or _default_page(entrants, work_dir, chosen[0].name if data else "")
    durable.require_writable(path.parent, "--output")
    answers = aligned([_answers(each, picked) for each, picked in zip(entrants, chosen, strict=True)])
    contenders = [_contender(each, its) for each, its in zip(entrants, answers, strict=True)]
    notes = [*data_notes(entrants), *_calibration_notes(entrants)]
    if len(chosen[0]) < max(len(each.picked) for each in entrants):
        notes.append(_("Only the {count} validation images that all of them have are judged", count=len(chosen[0])))
    durable.make_directory(path.parent)
    write_comparison(contenders, path, notes)
    _say(contenders, notes, log)
    log.info(_("report  {path}", path=path))
    return path


def _entrant(letter: str, judge: Judge, data: Sequence[str], allow_missing: bool) -> Entrant:
    experiment = judge.loaded.experiment
    if experiment is None:
        raise ConfigError(
            _("A model file on its own has no settings and no history to compare"),
            str(judge.loaded.path),
            _("name its experiment"),
        )
    picked = judge.pick(data, allow_missing=allow_missing)
    if not picked.labelled:
        raise DataError(
            _("Without their true classes images cannot be compared on"),
            picked.source,
            _("name a folder of class folders"),
        )
    identity = read_identity(experiment) or Identity({}, {})
    return Entrant(letter, experiment, judge, picked, identity, judge.calibration())


def _default_page(entrants: Sequence[Entrant], work_dir: Path, data: str) -> Path:
    """Return `<ids>.html`, with the name of the images that were given."""
    ids = "-".join(re.sub(r"\W", "-", each.title) for each in entrants)
    name = display_name(data)[:25]  # a file's name has 255 bytes at most, a letter up to four
    return work_dir / "compare" / (ids[:130] + (f"-{name}" if name else "") + ".html")


def _answers(each: Entrant, picked: Picked) -> Predictions:
    return each.judge.answers(picked, temperature=each.calibration.temperature if each.calibration else 1.0)


# ---- the same images ----


def common_images(entrants: Sequence[Entrant]) -> list[Picked]:
    """Return for each experiment the images that all of them have, in one order.

    None of them has trained on an image on which all of them validate.

    Raises:
        DataError: there is none, or the classes differ.
    """
    first = entrants[0]
    for each in entrants[1:]:
        if odd := sorted(set(first.judge.loaded.classes) ^ set(each.judge.loaded.classes)):
            raise DataError(
                _(
                    "{first} and {other} know different classes: {names}",
                    first=first.letter,
                    other=each.letter,
                    names=", ".join(odd),
                ),
                str(each.experiment.dir),
                _("compare experiments on the same classes"),
            )
    picked = [each.picked for each in entrants]
    if any(each.labels is None for each in picked):  # a data set of the user's gives each model its own samples
        if len({each.identity.data.get("data.val") for each in entrants}) == 1:
            return picked
        raise _nothing_shared(entrants)
    if all(each.manifest is not None and each.manifest == picked[0].manifest for each in picked):
        return [picked[0]] * len(picked)  # the same files, even if the folder has moved
    shared = set.intersection(*({os.path.abspath(item) for item in each.items} for each in picked))
    if not shared:
        raise _nothing_shared(entrants)
    pairs = zip(picked[0].items, picked[0].labels or (), strict=True)
    kept = [(item, label) for item, label in pairs if os.path.abspath(item) in shared]
    return [replace(picked[0], items=[item for item, _label in kept], labels=[label for _item, label in kept])] * len(
        picked
    )


def _nothing_shared(entrants: Sequence[Entrant]) -> DataError:
    return DataError(
        _("These experiments have no validation image in common"),
        "\n         ".join(str(each.experiment.dir) for each in entrants),
        _("give the images to judge them on with --data"),
    )


def data_notes(entrants: Sequence[Entrant]) -> list[str]:
    """Return how the data that the others were trained on differ from those of the first, a line each."""
    titles = {"data.train": _("training data"), "data.val": _("validation data")}
    first, notes = entrants[0], []
    for each in entrants[1:]:
        for split, title in titles.items():
            if each.identity.data.get(split) != first.identity.data.get(split):
                words = {"first": first.letter, "other": each.letter, "data": title}
                notes.append(_("{first} and {other} have different {data}", **words) + _files(first, each, split))
    return notes


def _calibration_notes(entrants: Sequence[Entrant]) -> list[str]:
    """Return a line where some are calibrated and some are not: numbers that rest on the confidence differ by that."""
    calibrated = [each.letter for each in entrants if each.calibration]
    if len(calibrated) in (0, len(entrants)):
        return []
    return [
        _(
            "Only {names} answers with a calibrated confidence: log losses and calibration errors cannot be compared",
            names=", ".join(calibrated),
        )
    ]


def _files(first: Entrant, other: Entrant, split: str) -> str:
    """Return " (+3 −1 ~2 files)"; empty where no list of files is known."""
    old, new = (read_data_manifest(each.experiment).get(split) or {} for each in (first, other))
    if "files" not in old or "files" not in new:
        return ""
    added, removed, changed = manifest_difference(old, new)
    return " " + _("(+{added} −{removed} ~{changed} files)", added=added, removed=removed, changed=changed)


def aligned(answers: Sequence[Predictions]) -> list[Predictions]:
    """Return the answers for the images that every model could read, which stand in the same order in all."""
    shared = set.intersection(*(set(each.paths) for each in answers))
    return [_kept(each, [at for at, path in enumerate(each.paths) if path in shared]) for each in answers]


def _kept(answers: Predictions, at: list[int]) -> Predictions:
    if len(at) == len(answers.paths):
        return answers
    assert answers.labels is not None
    return replace(
        answers,
        paths=tuple(answers.paths[index] for index in at),
        labels=answers.labels[at],
        logits=answers.logits[at],
        probabilities=answers.probabilities[at],
    )


# ---- what is compared ----


def _contender(each: Entrant, answers: Predictions) -> Contender:
    # Of code and data eight digits of their digests, enough to tell two from each other.
    code = {key: leaf.partition(":")[2][:8] for key, leaf in each.identity.settings.items() if leaf.startswith("code:")}
    data = {key: digest[:8] for key, digest in each.identity.data.items()}
    return Contender(
        letter=each.letter,
        id=each.title,
        settings={**flat_settings(each.judge.loaded.settings), **code, **data},
        history=read_history(each.experiment),
        predictions=answers,
        evaluation=evaluate_predictions(answers),
    )


def read_history(experiment: Experiment) -> History:
    """Return what metrics.csv holds; empty when it was never written (`enable_metrics_export = False`)."""
    if not experiment.metrics_csv.is_file():
        return []
    with experiment.metrics_csv.open(encoding="utf-8", newline="") as file:
        return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]


# ---- the terminal ----


def _say(contenders: Sequence[Contender], notes: Sequence[str], log: Log) -> None:
    for table in (settings_table(contenders), metrics_table(contenders), classes_table(contenders)):
        if table.row_count:
            log.table(table)
    for note in notes:
        log.warning(note)
    for other in contenders[1:]:
        log.info(verdict(contenders[0], other, duel(contenders[0], other)))


def settings_table(contenders: Sequence[Contender]) -> Table:
    table = _table(_("Settings that differ"), _("setting"), contenders, justify="left")
    for key, values in differing(contenders).items():
        table.add_row(key, *values)
    return table


def metrics_table(contenders: Sequence[Contender]) -> Table:
    table = _table(_("Metrics with their 95 % intervals"), _("metric"), contenders)
    for key in contenders[0].evaluation.metrics:
        share = is_share(key)
        found = [each.evaluation.metrics[key] for each in contenders]
        table.add_row(metric_name(key), *(f"{number(it.value, share)}\n{interval(it, share)}" for it in found))
    return table


def classes_table(contenders: Sequence[Contender]) -> Table:
    """Return the classes whose recall differs most between the first experiment and the last."""
    table = _table(_("Classes whose recall differs most"), _("class"), contenders)
    at = {each["name"]: number_ for number_, each in enumerate(contenders[0].evaluation.per_class)}
    for name, change in recall_changes(contenders[0], contenders[-1])[:CHANGES]:
        if change:
            recalls = [each.evaluation.per_class[at[name]]["recall"] for each in contenders]
            table.add_row(name, *(f"{number(it.value, True)}\n{interval(it, True)}" for it in recalls))
    return table


def _table(title: str, first: str, contenders: Sequence[Contender], justify: Any = "right") -> Table:
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column(first, overflow="fold")
    for each in contenders:
        table.add_column(each.title, justify=justify, overflow="fold")
    return table
