"""What a search leaves for people and programs: tables, and pages that work offline beside one plotly.js.

Every function is one of the rows: the files can be written again after each trial, and after an interruption.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pochitrain import durable
from pochitrain.config.search import Dimension, Direction, Scalar
from pochitrain.locale import _
from pochitrain.reports.study_charts import (
    Chart,
    contour_chart,
    front_chart,
    history_chart,
    importance_chart,
    parallel_chart,
    slice_chart,
)
from pochitrain.reports.html import Cell, Column, chart, escape, page, plotly_js, section, table

COMPLETE, PRUNED, FAILED, INTERRUPTED = "COMPLETE", "PRUNED", "FAILED", "INTERRUPTED"
RUNNING, WAITING = "RUNNING", "WAITING"

PLOTLY = "plotly.min.js"
PAIRED = 4  # settings that contour.html shows against each other: six pictures
