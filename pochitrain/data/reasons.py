"""Why a file cannot be read, in the reader's language: the operating system and Python say it in English."""

from __future__ import annotations

import errno
import os

from pochitrain.locale import _


def file_reason(error: OSError) -> str:
    """Return what the operating system says; in its own words where it is nothing common."""
    known = {
        errno.ENOENT: _("No such file or directory"),
        errno.EACCES: _("Permission denied"),
        errno.EPERM: _("Operation not permitted"),
        errno.EISDIR: _("Is a directory"),
        errno.ENOTDIR: _("Not a directory"),
        errno.ELOOP: _("Too many levels of symbolic links"),
        errno.ENAMETOOLONG: _("File name too long"),
        errno.EIO: _("Input/output error"),
    }
    if error.errno is None:
        return str(error)
    return known.get(error.errno) or os.strerror(error.errno)
