"""`pochi cache`: the decoded images that are kept on the disk. Loads no torch."""

from __future__ import annotations

import shutil
import time

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pochitrain.data.store import cache_dir, stored_pipelines
from pochitrain.errors import ConfigError
from pochitrain.locale import _

_SHOWN_DIGITS = 12


def list_cache() -> None:
    """Print what is kept, the last used first."""
    stored, console = stored_pipelines(), Console(highlight=False, markup=False, emoji=False)
    if not stored:
        console.print(_("The cache is empty: {path}", path=cache_dir()), soft_wrap=True)
        return
    table = Table(box=SIMPLE_HEAD)
    table.add_column("key", no_wrap=True)
    table.add_column(_("images"), justify="right", no_wrap=True)
    table.add_column("MB", justify="right", no_wrap=True)
    table.add_column(_("last used"), no_wrap=True)
    table.add_column(_("after decoding"))
    for one in stored:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used_at))
        size = f"{one.used_bytes / 1e6:,.1f}"
        table.add_row(one.key[:_SHOWN_DIGITS], str(one.images), size, used, one.steps or _("as decoded"))
    console.print(table)
    total = f"{sum(one.used_bytes for one in stored) / 1e6:,.1f}"
    console.print(_("{total} MB in {path}", total=total, path=cache_dir()), soft_wrap=True)


def clear_cache(key: str | None) -> None:
    """Remove one pipeline, or all of them. A training that is using it goes on with what it has open.

    Raises:
        ConfigError: no pipeline begins with `key`.
    """
    stored = stored_pipelines()
    chosen = [one for one in stored if one.key.startswith(key or "")]
    if key is not None and not chosen:
        raise ConfigError(
            _("Nothing in the cache begins with {key}", key=key),
            str(cache_dir()),
            _("`pochi cache list` shows the keys"),
        )
    for one in chosen:
        shutil.rmtree(one.folder, ignore_errors=True)
    freed = f"{sum(one.used_bytes for one in chosen) / 1e6:,.1f}"
    print(_("{count} removed, {freed} MB", count=len(chosen), freed=freed))
