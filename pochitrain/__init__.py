"""Train, judge and search image classifiers from one Python file."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pochitrain.config.loader import load_config as load_config
    from pochitrain.config.schema import Config as Config
    from pochitrain.data.pipeline import deterministic as deterministic
    from pochitrain.data.samples import digits_folder as digits_folder
    from pochitrain.errors import PochiError as PochiError
    from pochitrain.experiment import Experiment as Experiment
    from pochitrain.tasks.optimize import optimize as optimize
    from pochitrain.tasks.train import train as train

# torch's threads spin while they wait for each other, which takes the core from whoever else has work: the threads that
# decode, a second training. Asleep they wait better: 1.2 to 1.4 times the images per second at 32 px on two idle cores.
# Their runtime reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Resolved on first use: `import pochitrain` loads no torch.
_HOMES = {
    "Config": "config.schema",
    "Experiment": "experiment",
    "PochiError": "errors",
    "deterministic": "data.pipeline",
    "digits_folder": "data.samples",
    "load_config": "config.loader",
    "optimize": "tasks.optimize",
    "train": "tasks.train",
}
__all__ = ["Config", "Experiment", "PochiError", "deterministic", "digits_folder", "load_config", "optimize", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pochitrain' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pochitrain.{_HOMES[name]}"), name)
