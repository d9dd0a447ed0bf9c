"""Experiments side by side, judged on the same images: in numbers, and as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pochitrain import durable
from pochitrain.engine.predict import Predictions
from pochitrain.history import History
from pochitrain.locale import _
from pochitrain.reports.charts import Chart, history_chart
from pochitrain.reports.evaluation import Evaluation
from pochitrain.reports.gallery import CARD_PIXELS, relative_names, small_pictures
from pochitrain.reports.html import Cell, Column, chart, escape, name, page, picture, section, table
from pochitrain.reports.numbers import interval, is_share, metric_name, number, share_cell

PICTURES = 48  # of the images that one experiment fixes, and of those it breaks
CURVES = ("val_accuracy", "val_loss", "train_accuracy", "train_loss")


@dataclass(frozen=True)
class Contender:
    """One experiment of a comparison. All of them answered the same images in the same order."""

    letter: str
    id: str  # as shown
    settings: Mapping[str, str]  # dotted name → value, as text
    history: History
    predictions: Predictions
    evaluation: Evaluation

    @property
    def title(self) -> str:
        return f"{self.letter} {self.id}"


@dataclass(frozen=True)
class Duel:
    """How two experiments differ on the same images."""

    fixed: list[int]  # images that the first gets wrong and the second right, by the first one's loss, highest first
    broken: list[int]  # the other way round, by the second one's loss
    p: float  # of McNemar's exact test

    @property
    def significant(self) -> bool:
        return self.p < 0.05


def duel(first: Contender, second: Contender) -> Duel:
    """Return on which images two experiments differ, and whether that may be chance alone."""
    labels = first.predictions.labels
    right = [each.predictions.predicted == labels for each in (first, second)]
    fixed, broken = np.flatnonzero(~right[0] & right[1]), np.flatnonzero(right[0] & ~right[1])
    return Duel(
        [int(at) for at in fixed[np.argsort(-first.predictions.losses[fixed], kind="stable")]],
        [int(at) for at in broken[np.argsort(-second.predictions.losses[broken], kind="stable")]],
        mcnemar(len(fixed), len(broken)),
    )


def mcnemar(fixed: int, broken: int) -> float:
    """Return the p-value of McNemar's exact test (McNemar 1947), two-sided.

    Were two models equally good, each image on which one of them alone is right would be a fair coin.
    """
    tosses = fixed + broken
    ways = term = 1
    for heads in range(min(fixed, broken)):
        term = term * (tosses - heads) // (heads + 1)
        ways += term
    return min(2 * ways / (1 << tosses), 1.0)  # whole numbers until here: exact for any number of images


def differing(contenders: Sequence[Contender]) -> dict[str, list[str]]:
    """Return setting → its value in each experiment, for the settings that are not the same in all.

    Of a value of several lines, such as a composed transform, only the lines that are not in all of them.
    """
    names = dict.fromkeys(key for each in contenders for key in each.settings)
    rows = {key: [each.settings.get(key, "") for each in contenders] for key in names}
    return {key: _without_common_lines(values) for key, values in rows.items() if len(set(values)) > 1}


def _without_common_lines(values: list[str]) -> list[str]:
    lines = [value.splitlines() for value in values]
    common = set.intersection(*map(set, lines))
    kept = ["\n".join(line.strip() for line in each if line not in common) for each in lines]
    return kept if len(set(kept)) > 1 else values


def verdict(first: Contender, second: Contender, result: Duel) -> str:
    """Return what the comparison of two experiments amounts to, in two sentences."""
    said = _(
        "{second} fixes {fixed} of the images that {first} gets wrong, and breaks {broken} that it gets right"
        " (McNemar's exact test: p = {p}).",
        first=first.letter,
        second=second.letter,
        fixed=len(result.fixed),
        broken=len(result.broken),
        p=f"{result.p:.2g}",
    )
    if result.significant:
        return said + " " + _("That is more than chance explains.")
    return said + " " + _("That may be chance alone.")


def recall_changes(first: Contender, second: Contender) -> list[tuple[str, float]]:
    """Return (class, recall of the second − recall of the first), the largest changes first."""
    pairs = zip(first.evaluation.per_class, second.evaluation.per_class, strict=True)
    changes = [(a["name"], b["recall"].value - a["recall"].value) for a, b in pairs if a["support"]]
    return sorted(changes, key=lambda change: -abs(change[1]))


# ---- the page ----


def write_comparison(contenders: Sequence[Contender], path: Path, notes: Sequence[str] = ()) -> None:
    """Write the comparison of two or more experiments as one HTML page; the first is what the others are held against.

    Raises:
        DiskError: the disk is full or read-only.
    """
    first, others = contenders[0], contenders[1:]
    duels = [(each, duel(first, each)) for each in others]
    figures = _curves(contenders)
    sections = [
        _result_section(contenders, duels, notes),
        _settings_section(contenders),
        section(_("Curves"), f'<div class="columns">{"".join(chart(key) for key in figures)}</div>'),
        _classes_section(contenders),
    ]
    for second, result in duels:
        names = {"first": first.letter, "second": second.letter}
        fixed = _("{second} is right where {first} is wrong: {count}", count=len(result.fixed), **names)
        broken = _("{first} is right where {second} is wrong: {count}", count=len(result.broken), **names)
        sections += [
            _gallery_section(fixed, first, second, result.fixed),
            _gallery_section(broken, first, second, result.broken),
        ]
    title = _("Comparison of {names}", names=", ".join(each.title for each in contenders))
    durable.write_text(path, page(title, sections, data={"charts": figures}, charts=True), sync=False)


def _result_section(
    contenders: Sequence[Contender], duels: Sequence[tuple[Contender, Duel]], notes: Sequence[str]
) -> str:
    metrics = dict.fromkeys(key for each in contenders for key in each.evaluation.metrics)
    rows = []
    for key in metrics:
        cells = [_metric_cell(each.evaluation, key) for each in contenders]
        rows.append([Cell(escape(metric_name(key)), key), *cells])
    columns = [Column(_("Metric")), *(Column(each.title, number=True) for each in contenders)]
    said = [f"<p>{escape(verdict(contenders[0], each, result))}</p>" for each, result in duels]
    warnings = [f'<p class="warning">{escape(note)}</p>' for note in notes]
    root, _names = relative_names(contenders[0].predictions.paths)
    count = len(contenders[0].predictions.paths)
    where = _("Judged on the same {count} images in {folder}", count=count, folder=root)
    return section(_("Result"), *said, table(columns, rows), *warnings, note=where)


def _metric_cell(evaluation: Evaluation, key: str) -> Cell:
    if key not in evaluation.metrics:
        return Cell("–", "")
    estimate, share = evaluation.metrics[key], is_share(key)
    if share:
        return share_cell(estimate)
    return Cell(f"{number(estimate.value, share)} <small>{interval(estimate, share)}</small>", estimate.value)


def _settings_section(contenders: Sequence[Contender]) -> str:
    rows = differing(contenders)
    if not rows:
        return section(_("Settings that differ"), note=_("None"))
    columns = [Column(_("Setting")), *(Column(each.title) for each in contenders)]
    body = [
        [
            Cell(f"<code>{name(key)}</code>", key),
            *(Cell(f'<div class="text">{escape(value)}</div>', value) for value in values),
        ]
        for key, values in rows.items()
    ]
    return section(_("Settings that differ"), table(columns, body))


def _curves(contenders: Sequence[Contender]) -> dict[str, Chart]:
    titles = {
        "val_accuracy": (_("Validation accuracy"), _("Accuracy (%)")),
        "val_loss": (_("Validation loss"), _("Loss")),
        "train_accuracy": (_("Training accuracy"), _("Accuracy (%)")),
        "train_loss": (_("Training loss"), _("Loss")),
    }
    histories = {each.title: each.history for each in contenders}
    return {
        metric: history_chart(histories, metric, *titles[metric])
        for metric in CURVES
        if any(record.get(metric) is not None for history in histories.values() for record in history)
    }


def _classes_section(contenders: Sequence[Contender]) -> str:
    first = contenders[0]
    columns = [Column(_("Class")), Column(_("Images"), number=True)]
    columns += [Column(_("Recall of {name}", name=each.letter), number=True) for each in contenders]
    columns += [Column(f"{each.letter} − {first.letter}", number=True) for each in contenders[1:]]
    rows = []
    for at, each in enumerate(first.evaluation.per_class):
        recalls = [one.evaluation.per_class[at]["recall"] for one in contenders]
        changes = [_change_cell(recall.value - recalls[0].value) for recall in recalls[1:]]
        counts = Cell(str(each["support"]), each["support"])
        rows.append([Cell(name(each["name"]), each["name"]), counts, *map(share_cell, recalls), *changes])
    return section(_("Classes"), table(columns, rows, sortable=True), note=_("A click on a heading sorts by it."))


def _change_cell(change: float) -> Cell:
    if math.isnan(change):
        return Cell("–", "")
    kind = "good" if change > 0 else "bad" if change < 0 else ""
    return Cell(f'<span class="{kind}">{100 * change:+.1f}</span>', change)


def _gallery_section(title: str, first: Contender, second: Contender, images: Sequence[int]) -> str:
    if not images:
        return section(title)
    shown = images[:PICTURES]
    paths = first.predictions.paths
    _root, names = relative_names(paths)
    true, figures = _("true"), []
    for at, embedded in small_pictures(paths, shown, CARD_PIXELS):
        seen = picture(embedded, names[at]) if embedded else ""
        said = [escape(true) + f" <b>{name(_true(first, at))}</b>", *(_answer(each, at) for each in (first, second))]
        caption = f'<figcaption>{"<br>".join(said)}<span class="path">{name(names[at])}</span></figcaption>'
        figures.append(f"<figure>{seen}{caption}</figure>")
    note = "" if len(shown) == len(images) else _("The {count} clearest are shown.", count=len(shown))
    return section(title, f'<div class="gallery">{"".join(figures)}</div>', note=note)


def _true(contender: Contender, at: int) -> str:
    assert contender.predictions.labels is not None
    return contender.predictions.classes[int(contender.predictions.labels[at])]


def _answer(contender: Contender, at: int) -> str:
    predictions = contender.predictions
    answer = predictions.classes[int(predictions.logits[at].argmax())]
    kind = "good" if answer == _true(contender, at) else "bad"
    share = number(float(predictions.probabilities[at].max()), True)
    return f'{escape(contender.letter)}: <b class="{kind}">{name(answer)}</b> {share}'
