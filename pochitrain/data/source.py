"""What a run reads: class folders or a data set of the user's, checked before anything else is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pochitrain.config.canonical import digest
from pochitrain.config.mistakes import class_weights_problem
from pochitrain.config.schema import Config
from pochitrain.data.decode import BrokenImage
from pochitrain.data.folder import (
    ImageFolder,
    check_headers,
    check_same_classes,
    display_name,
    garbage_kept,
    manifest,
    manifest_digest,
    nested_roots,
)
from pochitrain.data.leaks import exact_leaks
from pochitrain.data.own import Items, check_range, check_same_names, class_names, make_dataset, read_labels
from pochitrain.data.remembered import cache_file, still_broken
from pochitrain.data.split import group_of, split_folder
from pochitrain.data.table import is_table, list_images
from pochitrain.errors import ConfigError, DataError, Problem
from pochitrain.locale import _

AUTO = "auto"  # the value of `val_data_root` that splits the training folder


@dataclass(frozen=True)
class Split:
    """One part of the data: paths with their labels, or a data set of the user's as `Items` (labels None)."""

    items: Any
    labels: Sequence[int] | None
    extremes: tuple[int, ...] = (0,)  # images of different shapes, or of different labels, to try a transform on
    manifest: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Data:
    """The data of an experiment."""

    classes: tuple[str, ...]
    counts: tuple[int, ...]  # training images per class
    train: Split
    val: Split | None
    notes: tuple[str, ...] = ()  # what a reader should know and need not act on

    @property
    def digests(self) -> dict[str, str]:
        """Return what stands for the data in the identity."""
        splits = {"data.train": self.train, "data.val": self.val}
        return {name: manifest_digest(split.manifest) for name, split in splits.items() if split is not None}


def load_data(config: Config) -> Data:
    """Find, check and label the data of a config.

    Costs one look at each folder and at the head and tail of each file. Decoded are only the files that the last
    `pochi check` could not decode.

    Raises:
        DataError: with every broken image, or with what is wrong with the folders.
        ConfigError: `num_classes` or `class_weights` contradicts the folders.
    """
    data = _own_data(config) if config.dataset is not None else _folder_data(config)
    if problems := contradictions(config, data.classes):
        raise ConfigError(problems=problems)
    return data


def contradictions(config: Config, classes: Sequence[str]) -> list[Problem]:
    """Return where `num_classes` and `class_weights` do not fit the classes of the data."""
    found, problems = len(classes), []
    if config.num_classes is not None and config.num_classes != found:
        names = ", ".join(classes[:20]) + (" …" if found > 20 else "")
        given = config.num_classes
        what = _(
            "num_classes is {given}, but the data has {found} classes: {names}", given=given, found=found, names=names
        )
        mend = _("set num_classes = {found}, or leave it out", found=found)
        problems.append(Problem(what, "num_classes", mend))
    if isinstance(config.class_weights, list) and len(config.class_weights) != found:
        problems.append(class_weights_problem(len(config.class_weights), found))
    return problems


@garbage_kept()
def _folder_data(config: Config) -> Data:
    train, val, notes = find_images(config)
    # Drawn by content, equal images are on one side; two groups may hold the same one.
    if val is not None and (config.val_data_root != AUTO or config.group_by):
        notes += _leak_notes(config, train, val)
    broken: list[BrokenImage] = []
    root = config.train_data_root
    train_split = _split(config, train, root, broken)
    val_split = None
    if val is not None:
        val_split = _split(config, val, root if config.val_data_root == AUTO else config.val_data_root, broken)
    if broken and config.on_bad_image == "error":
        problems = [Problem(error.problems[0].what, error.problems[0].where) for error in broken]
        advice = _('mend or remove the {count} files, or set on_bad_image = "skip"', count=len(broken))
        problems[-1] = Problem(problems[-1].what, problems[-1].where, advice)
        raise DataError(problems=problems)
    if broken:
        notes.append(_("{count} unreadable images are left out", count=len(broken)))
        notes += [f"  {error.problems[0].where}: {error.problems[0].what}" for error in broken[:20]]
    counts = Counter(train_split.labels or ())
    if empty := [name for label, name in enumerate(train.classes) if not counts[label]]:
        raise DataError(
            _("Classes without a readable training image: {names}", names=", ".join(empty)),
            str(train.root),
            _("add images, or remove the folders"),
        )
    if val is not None and val_split is not None and broken:
        lost = set(val.labels) - set(val_split.labels or ())
        if names := ", ".join(train.classes[label] for label in sorted(lost)):
            notes.append(_("classes without a readable validation image: {names}", names=names))
    return Data(
        train.classes,
        tuple(counts[label] for label in range(len(train.classes))),
        train_split,
        val_split,
        tuple(notes),
    )


def find_images(config: Config) -> tuple[ImageFolder, ImageFolder | None, list[str]]:
    """Return (training, validation, notes): what class folders or tables list, and what was left out of them.

    Raises:
        DataError: a folder or table cannot be read, or the classes of the two differ.
        ConfigError: `group_by` finds nothing in any path.
    """
    folders, problems = [], list[Problem]()
    for root in (config.train_data_root, config.val_data_root):
        try:
            folders += [list_images(root)] if root not in (None, AUTO) else []
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems=list(dict.fromkeys(problems)))
    train, *others = folders
    notes = [note for folder in folders for note in folder.notes]
    if config.val_data_root is None:
        return train, None, notes
    if others:
        return train, check_same_classes(train, others[0]), notes
    if config.group_by:
        notes += _grouping_notes(train, config.group_by)
    whole = train
    train, val = split_folder(whole, config.val_fraction, config.group_by)
    return train, val, notes + _drawing_notes(whole, val, config.val_fraction)


def _grouping_notes(whole: ImageFolder, group_by: str) -> list[str]:
    """Return what `group_by` has found in the paths; nothing at all is an error."""
    found = [group for name in whole.files if (group := group_of(name, group_by)) is not None]
    total = len(whole.files)
    if not found:
        example = display_name(whole.files[0])
        raise ConfigError(
            _("group_by finds nothing in any of the {total} paths, e.g. {path}", total=total, path=example),
            "group_by",
            _("give a regular expression that fits the paths below the data root, or leave group_by out"),
        )
    notes = [_("group_by makes {groups} groups of {total} images", groups=len(set(found)), total=len(found))]
    if missed := total - len(found):
        notes.append(_("group_by finds nothing in {count} of {total} paths", count=missed, total=total))
    return notes


def _drawing_notes(whole: ImageFolder, val: ImageFolder, fraction: float) -> list[str]:
    """Return what came out of a drawing that can differ from what was wished: each image is drawn by itself."""
    notes = []
    counts, drawn = Counter(whole.labels), Counter(val.labels)
    if alone := [name for label, name in enumerate(whole.classes) if not drawn[label]]:
        told = _(
            "classes without validation, as training needs all their images or groups: {names}", names=", ".join(alone)
        )
        notes.append(told)
    shares = sorted((drawn[label] / counts[label], whole.classes[label]) for label in drawn)
    if shares and (shares[0][0] < 0.6 * fraction or shares[-1][0] > 1.4 * fraction):
        notes.append(
            _(
                "validation holds {low:.0f} % of class {first} and {high:.0f} % of class {last}; val_fraction is "
                "{wanted:.0f} %",
                low=100 * shares[0][0],
                first=shares[0][1],
                high=100 * shares[-1][0],
                last=shares[-1][1],
                wanted=100 * fraction,
            )
        )
    return notes


def data_manifest(folder: ImageFolder, root: str | None) -> dict[str, Any]:
    """Return the manifest of a folder; in a table the class does not stand in the path, so it is put before it."""
    plain = manifest(folder)
    if root is None or not is_table(root):
        return plain
    names = [folder.classes[label] for label in folder.labels]
    files = [[f"{name}: {path}", size] for name, (path, size) in zip(names, plain["files"], strict=True)]
    return {**plain, "files": files}


def _leak_notes(config: Config, train: ImageFolder, val: ImageFolder) -> list[str]:
    # Two tables may list different files of one folder.
    roots = [config.train_data_root or "", config.val_data_root or ""]
    by_folder = AUTO not in roots and not any(map(is_table, roots))
    nested = [text for text in [by_folder and nested_roots(train.root, val.root)] if text]
    leaks = exact_leaks(train, val)
    if not leaks:
        return nested
    example = " = ".join(display_name(name) for name in leaks[0])
    told = _("{count} images are in training and in validation, e.g. {example}", count=len(leaks), example=example)
    return [*nested, told]


def _split(config: Config, folder: ImageFolder, root: str | None, broken: list[BrokenImage]) -> Split:
    """Return the images of a folder, as far as it is known that they can be read; the others are added to `broken`."""
    headers, errors = check_headers(folder)
    broken += errors
    if config.on_bad_image == "error":  # left out, they would make another training of the same experiment
        known = still_broken(folder, cache_file(config.work_dir, folder.root))
        broken += [error for index, error in known if headers[index] is not None]
    kept = [index for index, header in enumerate(headers) if header is not None]
    shapes: dict[float, int] = {}  # aspect ratio → position among those kept
    for position, index in enumerate(kept):
        header = headers[index]
        assert header is not None
        shapes.setdefault(header.width / header.height, position)
    ratios = sorted(shapes)
    sizes = sorted(range(len(kept)), key=lambda position: _pixels(headers[kept[position]]))
    extremes = [shapes[ratios[0]], shapes[ratios[-1]], sizes[0], sizes[-1]] if kept else []
    return Split(
        items=[folder.path(index) for index in kept],
        labels=[int(folder.labels[index]) for index in kept],
        extremes=tuple(dict.fromkeys(extremes)),
        manifest=data_manifest(folder, root),
    )


def _pixels(header: Any) -> int:
    return int(header.width * header.height)


def _own_data(config: Config) -> Data:
    sets = {split: made for split in ("train", "val") if (made := make_dataset(config, split)) is not None}
    labels = {split: read_labels(dataset, split) for split, dataset in sets.items()}
    classes = class_names(sets["train"], labels["train"], config.num_classes)
    if "val" in sets:
        check_same_names(sets["val"], classes)
    for split, given in labels.items():
        check_range(given, classes, split)
    counts = Counter(labels["train"])
    notes = []
    if empty := [name for label, name in enumerate(classes) if not counts[label]]:
        shown = ", ".join(empty[:20]) + (" …" if len(empty) > 20 else "")
        notes.append(_("classes without a training image: {names}", names=shown))
    splits = {
        split: Split(
            Items(dataset, labels[split]),
            None,
            extremes=_one_of_each(labels[split]),
            manifest=_own_manifest(classes, labels[split]),
        )
        for split, dataset in sets.items()
    }
    return Data(
        classes,
        tuple(counts[label] for label in range(len(classes))),
        splits["train"],
        splits.get("val"),
        tuple(notes),
    )


def _one_of_each(labels: Sequence[int]) -> tuple[int, ...]:
    """Return the first sample of each label, of eight labels at most."""
    return tuple(sorted(labels.index(label) for label in sorted(set(labels))[:8]))


def _own_manifest(classes: tuple[str, ...], labels: list[int]) -> dict[str, Any]:
    # The contents of the user's data set are known to its code alone, which is part of the identity.
    return {"classes": list(classes), "labels": digest({"": ",".join(map(str, labels))})}
