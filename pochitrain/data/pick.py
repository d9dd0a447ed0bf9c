"""The images that are to be judged: labelled ones in class folders or a table, or any others."""

from __future__ import annotations

import glob
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pochitrain.config.inject import name_of
from pochitrain.config.schema import Config
from pochitrain.data.decode import display_name
from pochitrain.data.folder import SUFFIXES, ImageFolder, check_headers, scan_folder, with_classes
from pochitrain.data.source import AUTO, data_manifest, load_data
from pochitrain.data.split import split_folder
from pochitrain.data.table import is_table, list_images, read_table
from pochitrain.errors import ConfigError, DataError, Problem, file_reason
from pochitrain.locale import _

SHOWN = 10  # of the files and patterns that were named


@dataclass(frozen=True)
class Picked:
    """Images to judge."""

    items: Any  # paths, or a data set of the user's
    labels: Sequence[int] | None  # None: not known (or known to the data set)
    labelled: bool
    name: str  # short, for a folder of results
    source: str  # where they come from, told from any other place; the same in every language
    folder: str | None = None  # the folder of which each image counts, None for tables, files and patterns
    broken: tuple[tuple[str, str], ...] = ()  # (path, reason), not among the items
    notes: tuple[str, ...] = ()
    manifest: dict[str, Any] | None = None  # of class folders and tables

    def __len__(self) -> int:
        return len(self.items)


def pick_validation(config: Config, classes: Sequence[str], *, allow_missing: bool = False) -> Picked:
    """Return the validation images of an experiment, as its training read them.

    Args:
        config: with the code of `dataset` where there is some.
        allow_missing: some classes may have no image.

    Raises:
        ConfigError: it was trained without any. DataError: they are gone, or their classes are others by now.
    """
    root = config.val_data_root
    if config.dataset is not None:
        data = load_data(config)
        if (own := data.val) is not None:
            if data.classes != tuple(classes):
                what = _(
                    "The data set has other classes than the model: {data} / {model}",
                    data=", ".join(data.classes[:20]),
                    model=", ".join(classes[:20]),
                )
                raise DataError(what, "dataset", _("give the folder of images with --data"))
            return Picked(own.items, None, True, "val", f"dataset = {name_of(config.dataset)}")
    elif root is not None:
        try:
            if root == AUTO:
                assert config.train_data_root is not None
                where = config.train_data_root
                _train, folder = split_folder(list_images(where), config.val_fraction, config.group_by)
                source = f"{os.path.abspath(where)} (val_data_root = {AUTO!r})"
                return _labelled(folder, classes, "val", where, source=source, allow_missing=True)
            return _labelled(_listed(root, allow_missing), classes, "val", root, allow_missing=allow_missing)
        except DataError as error:
            mend = _("give the folder of images with --data")
            what = _("The validation data of this experiment cannot be used")
            raise DataError(problems=[*error.problems, Problem(what, root, mend)]) from error
    raise ConfigError(
        _("This experiment was trained without validation data"), "--data", _("give the images: --data FOLDER")
    )


def pick_images(sources: Sequence[str], classes: Sequence[str], *, allow_missing: bool = False) -> Picked:
    """Return the images that the reader named: one folder, one table, or files and patterns such as "new/*.jpg".

    A folder with a folder that is named like a class is labelled. In any other the images count at any depth.

    Raises:
        ConfigError: a source is not there, or a folder is given beside others.
        DataError: there is no image, a class folder is unknown or (unless allowed) missing.
    """
    first = sources[0]
    if len(sources) == 1 and is_table(first) and os.path.isfile(first):
        return _labelled(read_table(first), classes, Path(first).stem, first, allow_missing=allow_missing)
    if len(sources) == 1 and os.path.isdir(first):
        folders = _folders(first)
        if folders & set(classes):
            return _labelled(_listed(first, allow_missing), classes, _name(first), first, allow_missing=allow_missing)
        found = _unlabelled(_images_below(first), first, _no_class_folder(folders, classes))
        return replace(found, folder=found.source)
    paths = list(dict.fromkeys(path for source in sources for path in _files(source)))
    common = os.path.dirname(paths[0]) if len(paths) == 1 else os.path.commonpath(map(os.path.abspath, paths))
    return _unlabelled(paths, common or ".", (), _told_apart([os.path.abspath(source) for source in sources]))


def _listed(root: str, allow_empty: bool) -> ImageFolder:
    return read_table(root) if is_table(root) else scan_folder(root, allow_empty=allow_empty)


def _told_apart(sources: Sequence[str]) -> str:
    """Return one line for what was named: the first, and of many their number and a digest of all."""
    digest = hashlib.sha256("\0".join(sources).encode(errors="surrogatepass")).hexdigest()
    return ", ".join(sources[:SHOWN]) + (f" … ({len(sources)}, SHA-256 {digest[:16]})" if len(sources) > SHOWN else "")


def _labelled(
    folder: ImageFolder,
    classes: Sequence[str],
    name: str,
    root: str,
    *,
    source: str = "",
    allow_missing: bool = False,
) -> Picked:
    source = source or os.path.abspath(root)
    filled = {folder.classes[label] for label in set(folder.labels)}
    missing = [label for label in classes if label not in filled]
    problems: list[Problem] = []
    if missing and not allow_missing:
        what = _("Classes of the model without images here: {names}", names=_some(missing))
        mend = _("add their folders, or judge the others alone: --allow-missing-classes")
        problems.append(Problem(what, display_name(source), mend))
    try:
        named = with_classes(folder, classes, _("the model"), allow_missing=True)
    except DataError as error:
        raise DataError(problems=[*error.problems, *problems]) from None
    if problems:
        raise DataError(problems=problems)
    headers, errors = check_headers(named)  # as before a training, so that the batches are the same
    kept = [index for index, header in enumerate(headers) if header is not None]
    notes = folder.notes
    if missing:
        notes += (_("classes without images: {names}", names=_some(missing)),)
    return Picked(
        items=[str(Path(named.root, named.files[index])) for index in kept],
        labels=[named.labels[index] for index in kept],
        labelled=True,
        name=name,
        source=source,
        folder=None if is_table(root) else os.path.abspath(root),
        broken=tuple((error.problems[0].where, error.problems[0].what) for error in errors),
        notes=notes,
        manifest=data_manifest(folder, root),
    )


def _unlabelled(paths: Sequence[str], folder: str, notes: tuple[str, ...], source: str = "") -> Picked:
    if not paths:
        raise DataError(
            _("There is no image in the folder"),
            display_name(os.path.abspath(folder)),
            _("images end with {kinds}", kinds=", ".join(sorted(SUFFIXES))),
        )
    return Picked(paths, None, False, _name(folder), source or os.path.abspath(folder), notes=notes)


def _no_class_folder(folders: Iterable[str], classes: Sequence[str]) -> tuple[str, ...]:
    if not folders:
        return ()
    given, known = _some(sorted(folders)), _some(classes)
    return (
        _(
            "no folder has the name of a class, so no image is labelled: {given} (classes: {known})",
            given=given,
            known=known,
        ),
    )


def _files(source: str) -> list[str]:
    """Return the files that one argument means, sorted."""
    if os.path.isfile(source):
        return [source]
    if os.path.isdir(source):
        raise ConfigError(
            _("A folder can only be given alone: {path}", path=display_name(source)),
            "--data",
            _("give one folder, or files"),
        )
    found = sorted(filter(os.path.isfile, glob.glob(source, recursive=True)), key=_order)
    if not found:
        raise ConfigError(
            _("There is no file or folder {path}", path=display_name(source)),
            "--data",
            _("a relative path starts from {folder}", folder=os.getcwd()),
        )
    return found


def _folders(root: str) -> set[str]:
    """Return the names of the folders in a folder, as classes are named."""
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return {display_name(unicodedata.normalize("NFC", name)) for name in names}


def _images_below(root: str) -> list[str]:
    """Return the images at any depth, sorted; hidden entries never count, a linked folder counts once."""
    found: list[str] = []
    seen: set[str] = set()
    errors: list[OSError] = []
    for folder, folders, files in os.walk(root, followlinks=True, onerror=errors.append):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [os.path.join(folder, name) for name in files if real not in seen and _is_image(name)]
        seen.add(real)
    if errors:
        what, mend = _("A folder cannot be read: {reason}"), _("allow this user to read it, or remove it")
        problems = [Problem(what.format(reason=file_reason(it)), display_name(it.filename), mend) for it in errors]
        raise DataError(problems=problems)
    return sorted(found, key=_order)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1][1:].lower() in SUFFIXES


def _order(path: str) -> tuple[str, str]:
    return unicodedata.normalize("NFC", path), path


def _name(folder: str) -> str:
    return os.path.basename(os.path.abspath(folder)) or "images"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
