"""Numbers of an evaluation, and settings, as a reader of a page or a table sees them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pochitrain.locale import _
from pochitrain.reports.evaluation import Estimate
from pochitrain.reports.html import Cell, Column, escape, name, table


def metric_name(key: str) -> str:
    """Return what a reader calls a metric."""
    if key.startswith("top_"):
        return _("Top-{k} accuracy", k=key.split("_")[1])
    known = {
        "accuracy": _("Accuracy"),
        "balanced_accuracy": _("Balanced accuracy"),
        "macro_f1": _("Macro F1"),
        "log_loss": _("Log loss"),
        "ece": _("Calibration error (ECE)"),
        "cohen_kappa": _("Cohen's kappa"),
    }
    return known.get(key, key)


def is_share(key: str) -> bool:
    """Tell the metrics that are shown in percent."""
    return key.endswith(("accuracy", "f1")) or key in ("ece", "precision", "recall")


def number(value: float, share: bool) -> str:
    if math.isnan(value):
        return "–"
    return f"{100 * value:.1f} %" if share else f"{value:.3f}"


def interval(estimate: Estimate, share: bool) -> str:
    """Return "91.2 – 95.1 %"; empty when nothing can be said."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return f"{number(estimate.low, share).removesuffix(' %')} – {number(estimate.high, share)}"


def bar(estimate: Estimate) -> str:
    """Return a share with its interval as a bar from 0 to 1."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    left, width = 100 * estimate.low, 100 * (estimate.high - estimate.low)
    span = f'<i style="left:{left:.2f}%;width:{width:.2f}%"></i>'
    return f'<div class="interval">{span}<u style="left:{100 * estimate.value:.2f}%"></u></div>'


def share_cell(estimate: Estimate) -> Cell:
    """Return a share with its interval, as text and as a bar."""
    if math.isnan(estimate.value):
        return Cell("–", "")
    said = f"{number(estimate.value, True)} <small>{interval(estimate, True)}</small>"
    return Cell(said + bar(estimate), estimate.value)


def settings_table(settings: Mapping[str, Any]) -> str:
    rows = [
        [Cell(f"<code>{name(key)}</code>", key), Cell(f'<div class="text">{escape(value)}</div>', "")]
        for key, value in flat_settings(settings).items()
    ]
    return table([Column(_("Setting")), Column(_("Value"))], rows)


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return dotted name → value as text."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat
