"""`optuna = {...}`: what a search varies and what it aims at, checked as far as that needs neither torch nor Optuna."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pochitrain.config.fields import Float, Int, Settings, plain, setting
from pochitrain.errors import Problem
from pochitrain.history import lower_is_better
from pochitrain.locale import _

Direction = Literal["maximize", "minimize"]
Scalar = None | bool | int | float | str

DEFAULT_METRIC = {"maximize": "val_accuracy", "minimize": "val_loss"}
CONFIRM_SEEDS = 3  # what `confirm_seeds = True` means: the least that shows a spread
FIELDS = {"float": ("low", "high", "log", "step"), "int": ("low", "high", "log", "step"), "categorical": ("choices",)}
GRID_POINTS = 5  # of a range without step; a grid of more is rarely finished
LABEL_LENGTH = 40
LARGEST_INT = 2**53  # samplers compute with floats, which tell integers apart up to here
_LESS_IS_BETTER = ("seconds", "latency_ms")


class Optuna(Settings):
    study_name: str = setting("pochitrain_optimization", en="Name of the study.", ja="Study 名.", identity=False)
    direction: Direction | Annotated[list[Direction], BeforeValidator(plain), Field(min_length=1)] = setting(
        "maximize",
        en="maximize: best accuracy; minimize: lowest loss; a list: one for each metric.",
        ja="最適化方向 (maximize: 精度最大化, minimize: 損失最小化, リスト: metric ごとの方向).",
        identity=False,
    )
    metric: str | Annotated[list[str], BeforeValidator(plain), Field(min_length=1)] | None = setting(
        None,
        en="Column that is searched for its best epoch; None: val_accuracy or val_loss; a list for several objectives.",
        ja="最良エポックの値を最適化する列. None は val_accuracy または val_loss. リストで多目的最適化.",
        identity=False,
    )
    n_trials: Int = setting(20, en="Number of trials in total.", ja="トライアル数の合計.", identity=False, ge=1)
    n_jobs: Int = setting(1, en="Worker processes.", ja="並列ジョブ数.", identity=False, ge=1)
    optuna_epochs: Int = setting(10, en="Epochs of a trial.", ja="最適化時のエポック数.", identity=False, ge=1)
    timeout_minutes: Float | None = setting(
        None,
        en="No trial begins after so many minutes.",
        ja="この時間 (分) を過ぎると新しいトライアルを始めない.",
        identity=False,
        gt=0,
    )
    sampler: Literal["TPESampler", "RandomSampler", "CmaEsSampler", "GridSampler"] = setting(
        "TPESampler", en="How values are suggested.", ja="サンプラー.", identity=False
    )
    pruner: (
        Literal["MedianPruner", "PercentilePruner", "SuccessiveHalvingPruner", "HyperbandPruner", "NopPruner"] | None
    ) = setting("MedianPruner", en="How hopeless trials are ended early.", ja="プルーナー.", identity=False)
    storage: str | None = setting(
        None,
        en="Database URL that keeps the study; None: in memory.",
        ja="探索結果を保存する DB の URL. None はメモリ内のみ.",
        identity=False,
    )
    heartbeat_seconds: Int = setting(
        30,
        en="A trial elsewhere that was silent for twice as long counts as killed and is run again.",
        ja="他のプロセスのトライアルがこの 2 倍の秒数応答しなければ停止と見なし, やり直す.",
        identity=False,
        ge=1,
    )
    keep_weights: Int = setting(
        3, en="So many of the best trials keep their weights.", ja="重みを残す上位トライアルの数.", identity=False, ge=0
    )
    confirm_seeds: bool | Annotated[int, BeforeValidator(plain), Field(ge=0)] = setting(
        False,
        en="At the end train the winner and the file's own setting with so many new seeds; True: 3.",
        ja="終了後に最良設定と元の設定を別のシードで再訓練する回数. True は 3.",
        identity=False,
    )
    search_space: dict[str, dict[str, Any]] = setting(
        {}, en="Setting → range to search.", ja="探索空間. 設定名 → 範囲.", identity=False
    )

    @property
    def directions(self) -> list[Direction]:
        return [self.direction] if isinstance(self.direction, str) else list(self.direction)

    @property
    def metrics(self) -> list[str]:
        """The columns that are searched; the first decides which epoch of a trial counts."""
        if self.metric is None:
            return [DEFAULT_METRIC[direction] for direction in self.directions]
        return [self.metric] if isinstance(self.metric, str) else list(self.metric)

    @property
    def seeds_to_confirm(self) -> int:
        return CONFIRM_SEEDS if self.confirm_seeds is True else int(self.confirm_seeds)

    def dimensions(self) -> list[Dimension]:
        """Return the search space in the written order; call it on settings without `search_problems`."""
        return [read_dimension(name, spec) for name, spec in self.search_space.items()]


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched.

    What Optuna suggests and stores is a number, or the label of a choice: the choice itself when it is a number, text,
    truth value or None, and a short text for anything else.
    """

    name: str
    kind: str  # "float", "int", "categorical"
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    labels: tuple[Scalar, ...] = ()

    def value(self, suggested: Scalar) -> Any:
        """Return the value that a setting gets."""
        return self.choices[self.index(suggested)] if self.kind == "categorical" else suggested

    def shown(self, suggested: Scalar) -> Any:
        """Return what files and the terminal show: the value where JSON can hold it, otherwise its label."""
        value = plain(self.value(suggested))
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            return suggested
        return value

    def in_words(self, suggested: Scalar) -> str:
        """Return a value as one writes it in the file; an object is its label."""
        shown = self.shown(suggested)
        return str(shown) if isinstance(shown, str) and not isinstance(self.value(suggested), str) else repr(shown)

    def index(self, label: Scalar) -> int:
        return next(n for n, own in enumerate(self.labels) if type(own) is type(label) and own == label)

    def extremes(self) -> list[Scalar]:
        """Return what shows whether the dimension fits its setting: both ends, or every choice."""
        if self.kind == "categorical":
            return list(self.labels)
        return list(dict.fromkeys((self._number(self.low), self._number(self.high))))

    def grid(self) -> list[Scalar]:
        """Return every choice, every step, every integer of at most ten, or else five points from end to end."""
        if self.kind == "categorical":
            return list(self.labels)
        step = self.step or (1 if self.kind == "int" and not self.log and self.high - self.low < 10 else None)
        if step:  # in decimals: 0.1 + 2 · 0.1 shall be 0.3
            low, high, step_ = (Decimal(str(number)) for number in (self.low, self.high, step))
            return [self._number(float(low + n * step_)) for n in range(int((high - low) / step_) + 1)]
        parts = [n / (GRID_POINTS - 1) for n in range(GRID_POINTS)]
        if self.log:
            points = [self.low * (self.high / self.low) ** part for part in parts]
        else:
            points = [self.low + (self.high - self.low) * part for part in parts]
        points[-1] = self.high  # not a rounding error beyond it
        return list(dict.fromkeys(self._number(point) for point in points))

    def _number(self, value: float) -> float:
        return round(value) if self.kind == "int" else float(value)


def read_dimension(name: str, spec: Mapping[str, Any]) -> Dimension:
    """Return one entry of a search space in which nothing is wrong."""
    if spec["type"] == "categorical":
        choices = tuple(spec["choices"])
        return Dimension(name, "categorical", choices=choices, labels=choice_labels(choices))
    low, high, step = (plain(spec.get(key)) for key in ("low", "high", "step"))
    return Dimension(name, spec["type"], low, high, step, bool(plain(spec.get("log", False))))


def shown_point(dimensions: Iterable[Dimension], point: Mapping[str, Scalar]) -> dict[str, Any]:
    """Return setting → `Dimension.shown` for what was suggested."""
    return {
        dimension.name: dimension.shown(point[dimension.name]) for dimension in dimensions if dimension.name in point
    }


def choice_labels(choices: Sequence[Any]) -> tuple[Scalar, ...]:
    """Return what stands for each choice: itself, or a text where one is no scalar or equals another (1 and True)."""
    plainly = [plain(choice) for choice in choices]
    if all(choice is None or isinstance(choice, bool | int | float | str) for choice in plainly) and (
        len(set(plainly)) == len(plainly)
    ):
        return tuple(plainly)
    texts = [_text(choice) for choice in plainly]
    return tuple(
        text if texts.count(text) == 1 else f"{text} #{texts[: n + 1].count(text)}" for n, text in enumerate(texts)
    )


def _text(choice: Any) -> str:
    if choice is None or isinstance(choice, bool | int | float | str | list | tuple | dict):
        text = repr(choice)
    else:
        text = getattr(choice, "__name__", type(choice).__name__)
    return text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1] + "…"


# ---------------------------------------------------------------------------------------------------------------- check


def search_problems(optuna: Optuna) -> list[Problem]:
    """Return every mistake in `optuna` that its own text shows."""
    problems = _objective_problems(optuna) + _storage_problems(optuna.storage)
    for name, spec in optuna.search_space.items():
        if not name.strip():
            mend = _("write the name of a setting: {example}", example='"learning_rate"')
            problems.append(Problem(_("A key of the search space is empty"), "optuna.search_space", mend))
            continue
        problems += _spec_problems(f"optuna.search_space.{name}", spec)
    return problems


def _objective_problems(optuna: Optuna) -> list[Problem]:
    directions, metrics = optuna.directions, optuna.metrics
    if len(directions) != len(metrics):
        counts = {"directions": len(directions), "metrics": len(metrics)}
        what = _("{directions} directions do not fit {metrics} metrics", **counts)
        return [Problem(what, "optuna.metric", _("give each metric its direction, in the same order"))]
    problems = []
    if len(directions) > 1 and optuna.metric is None:
        what = _("A search for several objectives needs their names")
        problems.append(Problem(what, "optuna.direction", _('set optuna["metric"] = ["val_accuracy", "latency_ms"]')))
    if again := [metric for n, metric in enumerate(metrics) if metric in metrics[:n]]:
        what = _("{metric} stands twice in metric", metric=again[0])
        problems.append(Problem(what, "optuna.metric", _("remove one of them, and its direction")))
    for metric, direction in zip(metrics, directions, strict=True):
        natural = "minimize" if lower_is_better(metric) or metric.endswith(_LESS_IS_BETTER) else "maximize"
        if metric.endswith(("_loss", "_accuracy", *_LESS_IS_BETTER)) and direction != natural:
            what = _("{metric} with direction {direction} would look for the worst", metric=metric, direction=direction)
            problems.append(Problem(what, "optuna.direction", _("set the direction to {direction}", direction=natural)))
    if len(directions) > 1 and optuna.sampler == "CmaEsSampler":
        what = _("CmaEsSampler knows one objective only")
        problems.append(Problem(what, "optuna.sampler", _("use TPESampler, RandomSampler or GridSampler")))
    return problems


def _storage_problems(url: str | None) -> list[Problem]:
    scheme, _colon, place = (url or "").partition("://")
    if not scheme.startswith("sqlite") or place.partition("?")[0].lstrip("/") not in ("", ":memory:"):
        return []
    what = _("{url} lives in memory: it ends with the process", url=url)
    return [Problem(what, "optuna.storage", _("name a file: {example}", example='"sqlite:///optuna_study.db"'))]


def _spec_problems(where: str, spec: Mapping[str, Any]) -> list[Problem]:
    kind, types = spec.get("type"), ", ".join(map(repr, FIELDS))
    if kind not in list(FIELDS):
        near = _near(str(kind), FIELDS)
        mend = _("did you mean {near}?", near=near) if near else _("types: {types}", types=types)
        what = _("A range needs a type") if kind is None else _("{type} is no type of a range", type=repr(kind))
        return [Problem(what, f"{where}.type", mend)]
    problems = []
    for key in spec:
        if key != "type" and key not in FIELDS[kind]:
            near = _near(key, FIELDS[kind])
            known = ", ".join(FIELDS[kind])
            mend = _("did you mean {near}?", near=near) if near else _("{type} knows: {names}", type=kind, names=known)
            problems.append(Problem(_("Unknown key {name}", name=key), f"{where}.{key}", mend))
    if kind == "categorical":
        return problems + _choice_problems(where, spec)
    return problems + _range_problems(where, spec)


def _near(name: str, names: Iterable[str]) -> str | None:
    swapped = [own for own in names if sorted(own) == sorted(name)]  # "lgo" is as near to low as to log
    return next(iter(swapped or difflib.get_close_matches(name, names, n=1)), None)


def _choice_problems(where: str, spec: Mapping[str, Any]) -> list[Problem]:
    choices = spec.get("choices")
    if not isinstance(choices, list | tuple) or not choices:
        what = _("choices is missing") if choices is None else _("choices must be a list of at least one value")
        return [Problem(what, f"{where}.choices", _("write the values to choose from: {example}", example="[16, 32]"))]
    if any(isinstance(choice, float) and math.isnan(choice) for choice in map(plain, choices)):
        return [Problem(_("A choice cannot be nan"), f"{where}.choices", _("write a number, or None"))]
    again = [n for n, choice in enumerate(choices) if any(_same(choice, other) for other in choices[:n])]
    what = _("The same value stands twice in choices: {value}", value=_text(choices[again[0]])) if again else ""
    return [Problem(what, f"{where}.choices", _("remove one of them"))] if again else []


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, bool | int | float | str):
        return type(a) is type(b) and bool(a == b)
    return isinstance(a, list | tuple | dict) and type(a) is type(b) and repr(a) == repr(b)


def _range_problems(where: str, spec: Mapping[str, Any]) -> list[Problem]:
    numbers = {key: plain(spec[key]) for key in ("low", "high", "step") if spec.get(key) is not None}
    problems = [
        Problem(_("{name} is missing", name=key), where, _("give both ends: low and high"))
        for key in ("low", "high")
        if key not in numbers
    ]
    accepted = int if spec["type"] == "int" else (int, float)
    for key, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, accepted) or not math.isfinite(number):
            mend = _("write an integer") if spec["type"] == "int" else _("write a finite number")
            what = _("{name} cannot be {value}", name=key, value=repr(number))
            problems.append(Problem(what, f"{where}.{key}", mend))
        elif abs(number) > LARGEST_INT and spec["type"] == "int":
            what = _("{name} cannot be {value}", name=key, value=number)
            problems.append(Problem(what, f"{where}.{key}", _("write an integer up to 2**53")))
    if not isinstance(plain(spec.get("log", False)), bool):
        value = repr(spec["log"])
        problems.append(Problem(_("log cannot be {value}", value=value), f"{where}.log", _("write True or False")))
    log = bool(plain(spec.get("log", False)))
    return problems or _order_problems(where, numbers["low"], numbers["high"], numbers.get("step"), log)


def _order_problems(where: str, low: float, high: float, step: float | None, log: bool) -> list[Problem]:
    problems = []
    if low > high:
        what = _("low is {low}, above high = {high}", low=low, high=high)
        problems.append(Problem(what, f"{where}.low", _("exchange them")))
    if log and low <= 0:
        what = _("log = True needs low > 0, not {low}", low=low)
        problems.append(Problem(what, f"{where}.low", _("raise low, or leave log out")))
    if step is not None and log:
        problems.append(Problem(_("log and step exclude each other"), where, _("leave one of them out")))
    if step is not None and not 0 < step <= max(high - low, 0):
        what = _("step is {step}, which does not fit between {low} and {high}", step=step, low=low, high=high)
        problems.append(Problem(what, f"{where}.step", _("write a number above 0 and at most high − low")))
    return problems
