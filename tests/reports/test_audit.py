"""The pictures that `pochi check` draws."""

from __future__ import annotations

from pathlib import Path

import pytest

from pochitrain.reports.audit import draw_balance


@pytest.mark.parametrize("images", [1, 2, 7, 1500])
def test_the_balance_counts_whole_images(images: int, tmp_path: Path) -> None:
    axes = draw_balance({"train": {"ant": images, "bee": 1}}, tmp_path / "balance.png").axes[0]
    ticks = axes.get_xticks()
    assert len(ticks) > 1
    assert all(tick == int(tick) for tick in ticks)
