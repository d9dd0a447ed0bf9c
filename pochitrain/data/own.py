"""A data set of the user's: made by a function of the config, and asked for what a run must know of it beforehand."""

from __future__ import annotations

import operator
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from pochitrain.config.inject import call_part, part_values, tells_splits
from pochitrain.config.mistakes import raised_by_user
from pochitrain.config.schema import Config
from pochitrain.data.decode import display_name
from pochitrain.errors import ConfigError, DataError, PochiError
from pochitrain.locale import _

MOST_CLASSES = 100_000  # ImageNet-21k has 21 841; a label of 10⁹ is a mistake, and a model for it fits no memory


class Items:
    """The items of a data set as (image, label), refused where the label is not the one that was said before."""

    def __init__(self, dataset: Any, labels: Sequence[int]) -> None:
        self.dataset, self.labels = dataset, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return one item.

        Raises:
            DataError: it is no pair of an image and a label, or has another label than expected.
        """
        image, label = pair_of(self.dataset[index])
        try:
            number = label_number(label)
        except TypeError:
            what = _("its item has label {label}", label=_shown(label))
            raise DataError(what, "dataset", _("labels are integers from 0")) from None
        if number != self.labels[index]:
            what = _("its item has label {label}, where {known} was said", label=number, known=self.labels[index])
            mend = _(
                "let targets (or labels) hold what each item gives, or remove that list, and the items are read "
                "instead; the label of an item must not change"
            )
            raise DataError(what, "dataset", mend)
        return image, number


def make_dataset(config: Config, split: str) -> Any:
    """Return the user's data set for a split; one that cannot tell the splits apart has no validation data.

    Raises:
        DataError: it cannot be made, or is empty. ConfigError: it is no data set.
    """
    assert config.dataset is not None
    if split == "val" and not tells_splits(config.dataset):
        return None
    root = config.train_data_root if split == "train" else config.val_data_root
    transform = config.train_transform if split == "train" else config.val_transform
    values = part_values(config, split=split, train=split == "train", root=root, transform=transform)
    try:
        made = call_part("dataset", config.dataset, values)
    except PochiError:
        raise
    except Exception as error:  # a library's data set may raise anything; the user's own is told with its line
        if raised_by_user(error):
            raise
        what = _("The data set for {split} cannot be made: {reason}", split=split, reason=_raised(error))
        raise DataError(what, "dataset", _("correct its arguments, or see to the files that it reads")) from error
    if made is None and split == "val":
        return None
    if _length(made, split) == 0:
        what = _("The data set for {split} is empty", split=split)
        raise DataError(what, "dataset", _("return a torch Dataset of (image, label), or None for no validation data"))
    return made


def _length(made: Any, split: str) -> int:
    mend = _("return a torch Dataset of (image, label), or None for no validation data")
    kind = type(made).__name__
    if any(base.__name__ == "IterableDataset" for base in type(made).__mro__):
        what = _(
            "dataset gave {kind} for {split}: an IterableDataset, whose items have no numbers", kind=kind, split=split
        )
        mend = _("images are drawn in a new order in each epoch: return a Dataset with __len__ and __getitem__")
        raise ConfigError(what, "dataset", mend)
    if not (hasattr(made, "__getitem__") and hasattr(made, "__len__")):
        what = _("dataset gave {kind} for {split}: not a data set with a length and items", kind=kind, split=split)
        raise ConfigError(what, "dataset", mend)
    try:
        return len(made)
    except Exception as error:  # a data set may raise anything
        if raised_by_user(error):
            raise
        what = _("The length of the data set for {split} cannot be told: {reason}", split=split, reason=_raised(error))
        raise DataError(what, "dataset", mend) from error


def read_labels(dataset: Any, split: str) -> list[int]:
    """Return the labels of a data set: its `targets` or `labels`, else read from every item.

    Raises:
        DataError: a label is no integer, there are not as many as images, or an item cannot be read.
    """
    name = next((name for name in ("targets", "labels") if getattr(dataset, name, None) is not None), None)
    if name is None:
        given = [_label_of(dataset, index, split) for index in range(len(dataset))]
    else:
        given = _listed(dataset, name, split, _("let it hold one label for each image, or give it another name"))
    if len(given) != len(dataset):
        what = _(
            "The data set for {split} has {images} images, but {labels} labels",
            split=split,
            images=len(dataset),
            labels=len(given),
        )
        mend = _("let targets (or labels) hold one label for each image, in the order of the images")
        raise DataError(what, "dataset", mend)
    labels = []
    for index, label in enumerate(given):
        try:
            labels.append(label_number(label))
        except TypeError:
            what = _(
                "Sample {index} of the data set for {split} has label {label}",
                index=index,
                split=split,
                label=_shown(label),
            )
            raise DataError(what, "dataset", _("labels are integers from 0")) from None
    return labels


def class_names(dataset: Any, labels: Sequence[int], wanted: int | None) -> tuple[str, ...]:
    """Return the names that a data set gives its classes, else their numbers.

    Args:
        wanted: how many there are, where that is set (`num_classes`).

    Raises:
        DataError: there are too many, or `classes` is no list of different names.
    """
    if not _names_classes(dataset):
        count = wanted or max(*labels, 0) + 1
        if count > MOST_CLASSES:
            what = _("{count} classes, more than the limit of {limit}", count=f"{count:,}", limit=f"{MOST_CLASSES:,}")
            mend = _("number the labels from 0 without gaps, or give the data set classes: a list of their names")
            raise DataError(what, "dataset", mend)
        return tuple(map(str, range(count)))
    return _given_names(dataset, "train")


def check_same_names(dataset: Any, classes: Sequence[str]) -> None:
    """Refuse validation data that name other classes, or in another order: a label would mean another one."""
    if _names_classes(dataset) and (names := _given_names(dataset, "val")) != tuple(classes):
        what = _(
            "The data sets for train and val name different classes: {train} / {val}",
            train=", ".join(classes[:20]),
            val=", ".join(names[:20]),
        )
        mend = _("let both list the same classes in the same order, whichever of them have images")
        raise DataError(what, "dataset", mend)


def _names_classes(dataset: Any) -> bool:
    return getattr(dataset, "classes", None) is not None


def _given_names(dataset: Any, split: str) -> tuple[str, ...]:
    mend = _("let classes list one name for each class, in the order of the labels")
    given = _listed(dataset, "classes", split, mend)
    names = [_class_name(name) for name in given]
    if "" in names:
        value = _shown(given[names.index("")])
        raise DataError(_("classes of the data set holds {value}, which is no name", value=value), "dataset", mend)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        what = _("classes of the data set holds a name twice: {names}", names=", ".join(twice[:20]))
        raise DataError(what, "dataset", mend)
    return tuple(names)


def check_range(labels: Sequence[int], classes: Sequence[str], split: str) -> None:
    """Refuse a label without a class."""
    wrong = next((index for index, label in enumerate(labels) if not 0 <= label < len(classes)), None)
    if wrong is not None:
        what = _(
            "Sample {index} of the data set for {split} has label {label}, but {count} classes",
            index=wrong,
            split=split,
            label=labels[wrong],
            count=len(classes),
        )
        raise DataError(what, "dataset", _("labels count from 0 and stay below the number of classes"))


def label_number(label: Any) -> int:
    """Return a label as an integer, from 0.5 or "1" a TypeError: int() would cut off what stands behind the point."""
    return operator.index(bool(label) if isinstance(label, np.bool_) else label)


def pair_of(item: Any) -> tuple[Any, Any]:
    """Return (image, label) of an item.

    Raises:
        DataError: it is something else.
    """
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    kind = type(item).__name__
    if isinstance(item, tuple | list):
        kind = _("{kind} of {count} values", kind=kind, count=len(item))
    if isinstance(item, Mapping):
        kind = _("{kind} with {names}", kind=kind, names=", ".join(map(str, list(item)[:10])))
    mend = _("let __getitem__ return (image, label)")
    raise DataError(_("an item is not (image, label), but {kind}", kind=kind), "dataset", mend)


def _listed(dataset: Any, name: str, split: str, mend: str) -> list[Any]:
    """Return what an attribute of a data set lists."""
    value = getattr(dataset, name)
    if not isinstance(value, str | bytes | Mapping | Set):  # a mapping may be of either direction, a set has no order
        try:
            return list(value)
        except TypeError:  # a number, a method, an array without dimensions
            pass
    what = _("{name} of the data set for {split} is no list, but {value}", name=name, split=split, value=_shown(value))
    raise DataError(what, "dataset", mend)


def _class_name(name: Any) -> str:
    """Return the name of a class; "" for what is none. ImageNet of torchvision has tuples of synonyms."""
    if isinstance(name, tuple | list):
        return ", ".join(map(_class_name, name))
    if isinstance(name, int | np.integer):
        return str(name)
    return display_name(unicodedata.normalize("NFC", name)) if isinstance(name, str) else ""


def _label_of(dataset: Any, index: int, split: str) -> Any:
    try:
        return pair_of(dataset[index])[1]
    except Exception as error:  # a data set may raise anything
        own = raised_by_user(error)
        reason, mend = _raised(error), _("correct the data set, or give it targets: a list of all labels")
        if isinstance(error, PochiError):
            reason, mend = error.problems[0].what, error.problems[0].mend or mend
        raise DataError(
            _(
                "Sample {index} of the data set for {split} cannot be read: {reason}",
                index=index,
                split=split,
                reason=reason,
            ),
            own.problems[0].where if own else "dataset",
            mend,
        ) from error


def _shown(value: Any) -> str:
    """Return one line for a value of the user's."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:59] + "…"


def _raised(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
