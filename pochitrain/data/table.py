"""A CSV file with the columns `path` and `label` in the place of class folders."""

from __future__ import annotations

import csv
import errno
import os
import stat
import unicodedata
from pathlib import Path

from pochitrain.data.decode import display_name
from pochitrain.data.folder import ImageFolder, scan_folder
from pochitrain.errors import DataError, Problem, file_reason
from pochitrain.locale import _

Row = tuple[int, list[str]]  # the number of its (last) line, and its values


def is_table(root: str) -> bool:
    return root.lower().endswith(".csv")


def list_images(root: str, faults: list[Problem] | None = None) -> ImageFolder:
    """Return what a table or a folder lists; see `read_table` and `scan_folder`."""
    return read_table(root, faults) if is_table(root) else scan_folder(root, faults)


def read_table(path: str | Path, faults: list[Problem] | None = None) -> ImageFolder:
    """Return the images that a table lists; relative paths start from the table's own folder, `~` is the home folder.

    UTF-8, with or without a byte order mark. Other columns, and spaces around a value, are ignored. The images are
    sorted by class and path, like those of folders.

    Args:
        faults: takes what is wrong, as long as there are images all the same; without it, that is an error.

    Raises:
        DataError: with every line that has no label, or whose file is missing or listed before.
    """
    path = Path(path)
    rows = _rows(path)
    columns = _columns(path, rows)
    images, problems = _checked(path, columns, rows[1:])
    if not images and not problems:
        problems = [Problem(_("The table lists no image"), str(path), _("add a line for each image: path,label"))]
    if problems and (faults is None or not images):
        raise DataError(problems=problems)
    if faults is not None:
        faults += problems
    images.sort(key=lambda image: (image[0], unicodedata.normalize("NFC", image[1]), image[1]))
    classes = tuple(sorted({label for label, _name, _size in images}))
    number = {name: index for index, name in enumerate(classes)}
    return ImageFolder(
        root=path.parent,
        classes=classes,
        files=tuple(name for _label, name, _size in images),
        labels=tuple(number[label] for label, _name, _size in images),
        sizes=tuple(size for _label, _name, size in images),
    )


def _rows(path: Path) -> list[Row]:
    """Return the lines that hold something."""
    rows: list[Row] = []
    start = 1  # of a row: one with a quotation mark too many runs over the lines below
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            for row in reader:
                if row:
                    rows.append((reader.line_num, row))
                start = reader.line_num + 1
    except OSError as error:
        mend = _("check the path; a relative one starts from the folder in which the command runs")
        if error.errno == errno.EISDIR:
            mend = _("give the folder another name: one that ends in .csv stands for a table")
        elif error.errno in (errno.EACCES, errno.EPERM):
            mend = _("allow this user to read it")
        raise DataError(_("The table cannot be read: {reason}", reason=file_reason(error)), str(path), mend) from None
    except UnicodeDecodeError:
        mend = _("save it as CSV in UTF-8 (in Excel: CSV UTF-8)")
        lines = enumerate(path.read_bytes().splitlines(), 1)
        line = next((number for number, line in lines if line.decode(errors="ignore").encode() != line), 1)
        raise DataError(_("The table is not in UTF-8"), f"{path}:{line}", mend) from None
    except csv.Error as error:
        if rows:
            _columns(path, rows)  # another separator is the better explanation
        reason = _("a quotation mark too few or too many")
        if "field limit" in str(error):
            reason = _("a value of more than {count} characters", count=csv.field_size_limit())
        what = _("The table cannot be read: {reason}", reason=reason)
        mend = _("put a quotation mark before and after the value, and two for each one inside it")
        raise DataError(what, f"{path}:{start}", mend) from None
    return rows


def _columns(path: Path, rows: list[Row]) -> list[str]:
    """Return the names in the first line."""
    mend = _("write path,label in the first line")
    if not rows:
        raise DataError(_("The table is empty"), str(path), mend)
    columns = [name.strip() for name in rows[0][1]]
    if columns.count("path") == columns.count("label") == 1:
        return columns
    if separator := next(
        (mark for mark in ";\t|" if {"path", "label"} <= set(map(str.strip, columns[0].split(mark)))), ""
    ):
        mend = _("separate the columns by commas, not by {separator}", separator=repr(separator))
    what = _("The table needs one column path and one column label; it has: {names}", names=", ".join(columns))
    raise DataError(what, str(path), mend)


def _checked(path: Path, columns: list[str], rows: list[Row]) -> tuple[list[tuple[str, str, int]], list[Problem]]:
    """Return (label, path, bytes) of the good lines, and what is wrong with the others."""
    images, problems, seen = [], [], set[tuple[int, int]]()
    for line, row in rows:
        where = f"{path}:{line}"
        if any(row[len(columns) :]):
            what = _("A line with more values than there are columns")
            problems.append(Problem(what, where, _("put quotation marks around a value that holds a comma")))
            continue
        cells = dict(zip(columns, row, strict=False))
        name, label = cells.get("path", "").strip(), cells.get("label", "").strip()
        if not name or not label:
            problems.append(Problem(_("A line without path or label"), where, _("complete or remove it")))
            continue
        name = os.path.expanduser(name)
        status = _status(path.parent / name)
        if isinstance(status, str):
            shown, mend = display_name(name), _("correct the path; it starts from the folder of the table")
            slashed = name.replace("\\", "/")
            if slashed != name and os.path.exists(path.parent / slashed):
                mend = _("write / instead of \\ in paths: {name}", name=display_name(slashed))
                shown = shown.replace("\\\\", "\\")
            what = _("{name} cannot be read: {reason}", name=shown, reason=status)
            problems.append(Problem(what, where, mend))
            continue
        if (file_id := (status.st_dev, status.st_ino)) in seen:
            problems.append(Problem(_("{name} is listed twice", name=display_name(name)), where, _("remove the line")))
            continue
        seen.add(file_id)
        images.append((display_name(unicodedata.normalize("NFC", label)), name, status.st_size))
    return images, problems


def _status(path: Path) -> os.stat_result | str:
    """Return what the disk says of a regular file, or why there is none."""
    try:
        status = os.stat(path)
    except OSError as error:
        return file_reason(error)
    except ValueError:
        return _("a name with a zero byte")
    return status if stat.S_ISREG(status.st_mode) else _("no regular file")  # a pipe need not come to an end
