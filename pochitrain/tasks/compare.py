"""`pochi compare`: experiments side by side, judged on the same images."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pochitrain import durable
from pochitrain.data.folder import manifest_difference, scan_folder
from pochitrain.data.source import Data, load_data
from pochitrain.engine.loading import LoadedModel, find_model, load_model
from pochitrain.engine.predict import Predictions, predict
from pochitrain.engine.run import choose_device, choose_precision
from pochitrain.errors import ConfigError, DataError
from pochitrain.experiment import ID_LENGTH, Experiment
from pochitrain.history import History
from pochitrain.locale import _
from pochitrain.reports.comparison import (
    Contender,
    differing,
    duel,
    recall_changes,
    verdict,
    write_comparison,
)
from pochitrain.reports.evaluation import evaluate_predictions
from pochitrain.reports.numbers import flat_settings, interval, is_share, metric_name, number
from pochitrain.sinks.console import Log
from pochitrain.tasks.prepare import read_data_manifest, read_identity

CHANGES = 10  # classes in the terminal
