"""How the process of a command ends: with everything written, and then at once."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pochitrain.config.source import is_user_code
from pochitrain.durable import disk_error
from pochitrain.errors import DiskError

_ARCHIVES = (
    ("gzip", "GzipFile"), ("bz2", "BZ2File"), ("lzma", "LZMAFile"), ("zipfile", "ZipFile"), ("tarfile", "TarFile"),
)  # fmt: skip


def leave(code: int) -> NoReturn:
    """End this process without taking torch apart, which costs the interpreter seconds.

    A file that cannot be written is told, and makes of exit code 0 that of a disk error. Call it when all threads are
    over.
    """
    for error in let_go():
        with suppress(OSError, ValueError, AttributeError):  # standard error may be full, closed or none
            print(error, file=sys.stderr, flush=True)
        code = code or error.exit_code
    os._exit(code)


def spare_libraries() -> None:
    """Let no search for garbage or open files look at what exists by now: of torch alone that is 300 000 objects.

    For a command that has imported its libraries and none of the user's files yet.
    """
    gc.freeze()


def let_go() -> list[DiskError]:
    """Do for the user's objects what the interpreter does at its end, for a process that ends by `os._exit`.

    Open files are written, and what only the user's modules hold is let go, so that an archive gets its end and
    `__del__` is called. Returns an error for each file that cannot be written.
    """
    full = _write_open_files()
    with suppress(AttributeError):  # all of them were called; they would hold on to the user's modules
        atexit._clear()
    for name, module in list(sys.modules.items()):
        if name != "__main__" and getattr(module, "__file__", None) and is_user_code(module):
            del sys.modules[name]
    gc.collect()
    return list((full | _write_open_files()).values())


def _write_open_files() -> dict[str, DiskError]:
    """Write what open files hold in their buffers; return those that cannot be written, by name.

    Archives get their end: a collection of garbage may close the file below them first.
    """
    objects, full = [*gc.get_objects(), sys.stdout, sys.stderr], {}
    found = [getattr(sys.modules.get(module), name, None) for module, name in _ARCHIVES]
    archives = tuple(kind for kind in found if kind is not None)
    # Of types only: an object may do something when it is asked for its class.
    kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, (io.IOBase, *archives))}
    for file in [each for each in objects if type(each) in kinds]:
        try:
            if issubclass(type(file), archives):
                file.close()
            elif not file.closed:
                file.flush()
        except BrokenPipeError:  # its reader wants no more
            continue
        except OSError as error:
            name = str(getattr(file, "name", type(file).__name__))
            full[name] = disk_error(error, Path(name))
        except Exception:  # a class of the user's may raise anything, and one that has lost its file a ValueError
            continue
    return full


def silence() -> None:
    """Send standard output nowhere: its reader has closed the pipe, or its disk is full."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
