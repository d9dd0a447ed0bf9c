"""The user's files as modules: executed from one read of their text, found beside the config first, read anew by each
load."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import linecache
import os
import sys
from collections.abc import Iterator
from importlib import machinery, util
from pathlib import Path
from types import ModuleType
from typing import Any

from pochitrain.config.mistakes import execution_problem, shown, syntax_problem
from pochitrain.config.source import is_user_code, is_user_namespace
from pochitrain.errors import ConfigError
from pochitrain.locale import _

_numbers = itertools.count(1)
_folders: set[str] = set()  # of the files that were executed
_modules_of_last_load: list[str] = []


def execute(path: Path, text: str, *, anew: bool = True) -> ModuleType:
    """Execute a text as the file at `path`; what lies beside it is imported before anything else of that name.

    Args:
        anew: also import anew what an earlier load has imported.

    Raises:
        ConfigError: it does not run, or a library has its name.
    """
    folder = str(path.parent.resolve())
    _refuse_name_of_library(path, folder)
    _put_first(folder)
    _forget_modules(folder, anew)
    name = f"pochi_config_{next(_numbers)}"
    spec = util.spec_from_loader(name, _TextLoader(name, str(path), text), origin=str(path))
    assert spec is not None
    assert spec.loader is not None
    spec.has_location = True  # there is a `__file__`
    module = util.module_from_spec(spec)
    module.__dict__["__pochi_config__"] = True  # not what it imports
    process = os.getpid()
    sys.modules[name] = module
    try:
        with remembered_imports():
            spec.loader.exec_module(module)
    except SyntaxError as error:
        raise syntax_problem(error, path) from error
    except (Exception, SystemExit) as error:  # the user's code may raise anything at all
        raise execution_problem(error, path) from error
    finally:
        if os.getpid() != process:  # the file forked: only the first process goes on
            os._exit(0)
    return module


def execute_part(path: Path, text: str) -> ModuleType:
    """Execute a file that a config names: it shares the modules of the config, which come first again afterwards."""
    first, modules = sys.path[0], dict(sys.modules)
    module = execute(path, text, anew=False)
    _put_first(first)
    sys.modules.update(modules)
    return module


@contextlib.contextmanager
def remembered_imports() -> Iterator[None]:
    """Remember which modules of the user's are imported in the block: the next load imports them anew."""
    before = set(sys.modules)
    try:
        yield
    finally:
        _modules_of_last_load.extend(n for n in sys.modules.keys() - before if is_user_code(sys.modules[n]))


class _TextLoader(machinery.SourceFileLoader):
    """Executes the text that it is given or reads, and leaves no byte code.

    Byte code is told from a newer text by whole seconds and the size alone: an edit within a second would be missed.
    """

    def __init__(self, name: str, path: str, text: str | None = None) -> None:
        super().__init__(name, path)
        self.text, self.executed = text, ""

    def exec_module(self, module: ModuleType) -> None:
        code = self.get_code(module.__name__)
        module.__dict__["__pochi_source__"] = self.executed  # the identity shows what runs, whatever is read later
        exec(code, module.__dict__)

    def get_code(self, fullname: str) -> Any:
        source = self.get_data(self.path) if self.text is None else self.text
        code = compile(source, self.path, "exec", dont_inherit=True)
        text = util.decode_source(source) if isinstance(source, bytes) else source
        self.executed = text
        # Tracebacks and inspect show the text that was read last.
        linecache.cache[self.path] = (len(text), None, text.splitlines(keepends=True), self.path)
        return code


def _find_in(path: str) -> machinery.FileFinder:
    """Return what finds modules in a folder of the user's; a hook of `sys.path_hooks`."""
    if not _is_own(path):
        raise ImportError(path)
    return machinery.FileFinder(
        path,
        (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
        (_TextLoader, machinery.SOURCE_SUFFIXES),
        (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
    )


def _is_own(path: str) -> bool:
    """Tell whether a folder is one of configs or lies in one, and holds no library (as `.venv` does)."""
    return any(_is_in(path, folder) for folder in _folders) and is_user_namespace({"__path__": [path]})


def _is_in(path: str, folder: str) -> bool:
    return f"{path}{os.sep}".startswith(folder.rstrip(os.sep) + os.sep)


def _put_first(folder: str) -> None:
    """Let imports look into a folder first, as Python does for a script."""
    sys.path[:] = [folder, *(entry for entry in sys.path if entry != folder)]
    if _find_in not in sys.path_hooks:
        sys.path_hooks.insert(0, _find_in)
    if folder not in _folders:
        _folders.add(folder)
        for entry in [entry for entry in sys.path_importer_cache if _is_own(entry)]:
            del sys.path_importer_cache[entry]


def _forget_modules(folder: str, anew: bool) -> None:
    """Forget the modules that an import would now find in `folder`, if they come from elsewhere or are wanted anew."""
    for name in _modules_of_last_load if anew else ():
        sys.modules.pop(name, None)
    if anew:
        _modules_of_last_load.clear()
    importlib.invalidate_caches()
    for top in {name.partition(".")[0] for name in sys.modules} - {"__main__"}:
        module = sys.modules[top]
        if not isinstance(module, ModuleType) or not is_user_code(module):
            continue
        # `folder` comes first on `sys.path`; another entry may lie in it.
        here, there = _places(machinery.PathFinder.find_spec(top, [folder])), _places(module.__spec__)
        if (here and here != there) or (anew and any(_is_in(place, folder) for place in [*here, *there])):
            for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
                del sys.modules[name]


def _places(spec: machinery.ModuleSpec | None) -> list[str]:
    found = (spec.origin, *(spec.submodule_search_locations or ())) if spec else ()
    return [os.path.realpath(place) for place in found if place]


def _refuse_name_of_library(path: Path, folder: str) -> None:
    """Refuse a file that `import` would find in the place of a library, because its folder comes first."""
    # `test` is where Python keeps its own tests: nobody imports it.
    if not path.stem.isidentifier() or path.stem == "test":
        return
    elsewhere = [entry for entry in sys.path if os.path.realpath(entry) != folder]
    found = machinery.PathFinder.find_spec(path.stem, elsewhere)
    if found and found.origin and not is_user_namespace({"__file__": found.origin}):
        what = _("This file has the name of a library: {name}", name=path.stem)
        raise ConfigError(what, shown(path), _("rename it, for example to {name}", name=f"my_{path.name}"))
