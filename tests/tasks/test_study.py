"""The study: samplers, pruners, counting, and what becomes of trials whose process is gone. Nothing is trained here."""

from __future__ import annotations

import math
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from pochitrain import load_config
from pochitrain.config.search import read_dimension
from pochitrain.errors import ConfigError, DiskError
from pochitrain.experiment import Experiment, write_manifest
from pochitrain.reports.trials import COMPLETE, FAILED, INTERRUPTED, PRUNED, RUNNING, TrialRow
from pochitrain.tasks import sampling, study
from pochitrain.tasks.grid import Grid
from pochitrain.tasks.lives import LIVES
from pochitrain.tasks.search import method_notes
from pochitrain.tasks.study import Study, Suggestion, open_study
from pochitrain.tasks.trial import Outcome

WriteConfig = Callable[..., Path]
Open = Callable[..., Study]

SPACE = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "scheduler_gamma": {"type": "float", "low": 0.5, "high": 1.0},
    "batch_size": {"type": "categorical", "choices": [4, 8]},
}


@pytest.fixture
def opened(write_config: WriteConfig, tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens a study: `opened(n_trials=3, storage="sqlite:///…")`."""
    made: list[Study] = []

    def open_it(made_of: dict[str, str] | None = None, **optuna: Any) -> Study:
        overrides = {"optuna": {"search_space": SPACE, **optuna}}
        made.append(open_study(load_config(write_config(), overrides), made_of or {}))
        return made[-1]

    yield open_it
    for each in made:
        each.close()


def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def value_at(point: dict[str, Any]) -> float:
    """Return what a training would: best at learning_rate 0.03, a little better with more gamma and batch size 8."""
    rate, gamma = point.get("learning_rate", 1e-3), point.get("scheduler_gamma", 1.0)
    return -((math.log10(rate) + 1.5) ** 2) + gamma + (point.get("batch_size") == 8)


def finish(own: Study, suggestion: Suggestion, value: float | None = None) -> None:
    value = value_at(suggestion.point) if value is None else value
    own.end(suggestion, Outcome(COMPLETE, [{"epoch": 1, "val_accuracy": value}], [value]))


def search(own: Study, count: int = 1000) -> list[dict[str, Any]]:
    """Do what is left of a study, at most `count` trials, and return what was suggested."""
    points = []
    while len(points) < count and (suggestion := own.ask()) is not None:
        points.append(suggestion.point)
        if suggestion.twin is not None:
            own.answer(suggestion)
        else:
            finish(own, suggestion)
    return points


def states(own: Study) -> list[str]:
    return [row.state for row in own.rows()]


# ----------------------------------------------------------------------------------------------------- samplers


@pytest.mark.parametrize("sampler", ["TPESampler", "RandomSampler", "CmaEsSampler", "GridSampler"])
def test_a_sampler_repeats_exactly_and_goes_on_where_it_was(opened: Open, tmp_path: Path, sampler: str) -> None:
    names = iter("abcd")
    straight = search(opened(sampler=sampler, n_trials=12, study_name=next(names)))
    assert straight == search(opened(sampler=sampler, n_trials=12, study_name=next(names)))
    assert len({repr(point) for point in straight}) > 6
    stored = {"sampler": sampler, "n_trials": 12, "study_name": next(names), "storage": sqlite(tmp_path)}
    parts = [search(opened(**stored), count) for count in (5, 4, 99)]
    assert [point for part in parts for point in part] == straight
    assert len(opened(**stored).rows()) == 12


@pytest.mark.parametrize(("sampler", "trials"), [("TPESampler", 30), ("CmaEsSampler", 40)])
def test_a_sampler_learns(opened: Open, sampler: str, trials: int) -> None:
    space = {name: SPACE[name] for name in ("learning_rate", "scheduler_gamma")}
    points = search(opened(sampler=sampler, n_trials=trials, search_space=space))
    values = [value_at(point) for point in points]
    assert sum(values[-8:]) / 8 > sum(values[:8]) / 8 + 0.5


def test_another_seed_suggests_something_else(write_config: WriteConfig) -> None:
    found = []
    for seed in (1, 2):
        config = load_config(write_config(), {"seed": seed, "optuna": {"search_space": SPACE, "n_trials": 3}})
        found.append(search(open_study(config, {})))
    assert found[0] != found[1]


def test_the_grid_is_walked_once(opened: Open) -> None:
    space = {
        **SPACE,
        "batch_size": {"type": "categorical", "choices": [4, None]},
        "seed": {"type": "int", "low": 1, "high": 2},
    }
    del space["scheduler_gamma"]
    points = search(opened(sampler="GridSampler", n_trials=100, search_space=space))
    assert len(points) == 5 * 2 * 2
    assert len({repr(point) for point in points}) == 20
    few = search(opened(sampler="GridSampler", n_trials=7, search_space=space, study_name="few"))
    assert len(few) == 7
    assert {point["batch_size"] for point in few} == {4, None}  # shuffled, not the first corner


def test_a_grid_that_grew_is_walked_to_its_end(opened: Open, tmp_path: Path) -> None:
    """Trials beside the grid, of another sampler or of a grid with other ends, take no place in it."""
    stored = {"storage": sqlite(tmp_path), "sampler": "GridSampler", "n_trials": 100}
    first, wider = ({"learning_rate": {"type": "float", "low": 0.01, "high": high}} for high in (0.03, 0.06))
    search(opened(**{**stored, "sampler": "RandomSampler", "n_trials": 2}, search_space=first))
    assert len(search(opened(**stored, search_space=first))) == 5
    own = opened(**stored, search_space=wider)
    assert (own.total, own.untried) == (11, 4)  # 0.01 was tried
    assert sorted(point["learning_rate"] for point in search(own)) == pytest.approx([0.0225, 0.035, 0.0475, 0.06])
    assert opened(**stored, search_space=wider).ask() is None
    few = opened(**{**stored, "n_trials": 5}, search_space={"learning_rate": {**wider["learning_rate"], "high": 0.08}})
    assert "The grid has 5 points, 4 not tried yet; this search tries 0 of them" in method_notes(few.settings, few)
    assert method_notes(own.settings, own) == ["The grid has 5 points, 4 not tried yet; this search tries 4 of them"]
    more = opened(**{**stored, "n_trials": 14}, search_space=few.settings.search_space)
    assert "The grid has 5 points, 4 not tried yet; this search tries 3 of them" in method_notes(more.settings, more)


def test_a_grid_of_a_billion_points_is_never_whole(opened: Open) -> None:
    names = ("learning_rate", "optimizer_params.weight_decay", "optimizer_params.eps")
    space = {name: {"type": "float", "low": 0.001, "high": 1.0, "step": 0.001} for name in names}
    points = search(opened(sampler="GridSampler", n_trials=50, search_space=space))
    assert len({tuple(point.values()) for point in points}) == 50
    grid = Grid([read_dimension(name, spec) for name, spec in space.items()])
    assert grid.count == 10**9
    assert {number for number in (0, 1, 123456789, 10**9 - 1) if grid.number(grid.point(number)) != number} == set()
    assert grid.number({**points[0], "learning_rate": 0.0015}) is None


# ----------------------------------------------------------------------------------------------------- pruners


def run_curves(own: Study, curves: list[list[float]]) -> list[int]:
    """Run trials with these values epoch by epoch, from where they were; return after how many epochs each ended."""
    lengths = []
    for curve in curves:
        suggestion = own.ask()
        assert suggestion is not None
        length = len(suggestion.epochs)
        for value in curve[length:]:
            length += 1
            if not own.report(suggestion, length, value, last=length == len(curve)):
                break
        history = [{"epoch": n + 1, "val_accuracy": value} for n, value in enumerate(curve[:length])]
        status = COMPLETE if length == len(curve) else PRUNED
        own.end(suggestion, Outcome(status, history, [max(filter(math.isfinite, curve[:length]))]))
        lengths.append(length)
    return lengths


GOOD, BAD = [10.0 * n for n in range(1, 10)], [1.0 * n for n in range(1, 10)]


@pytest.mark.parametrize(
    ("pruner", "prunes"),
    [
        ("MedianPruner", True),
        ("PercentilePruner", True),
        ("SuccessiveHalvingPruner", True),
        ("HyperbandPruner", True),
        ("NopPruner", False),
        (None, False),
    ],
)
def test_a_pruner_ends_what_is_hopeless(opened: Open, pruner: str | None, prunes: bool) -> None:
    own = opened(pruner=pruner, n_trials=20, optuna_epochs=9)
    lengths = run_curves(own, [GOOD] * 10 + [BAD] * 10)
    assert lengths[:5] == [9] * 5
    assert (min(lengths[10:]) < 9) == prunes
    pruned = [row for row in own.rows() if row.state == PRUNED]
    assert all(row.epochs == {n: float(n) for n in range(1, max(row.epochs) + 1)} for row in pruned if row.number >= 10)


def test_successive_halving_compares_the_same_epochs_of_trials_side_by_side(opened: Open) -> None:
    """The best of all at epoch 1 goes on, also when another one began before anything was complete."""
    own = opened(pruner="SuccessiveHalvingPruner", n_trials=3, n_jobs=2, optuna_epochs=9)
    first, beside = own.ask(), own.ask()
    assert first is not None
    assert beside is not None
    for epoch in (1, 2, 3):
        assert own.report(first, epoch, 10.0 * epoch, last=epoch == 3)
        assert own.report(beside, epoch, 12.0 * epoch, last=False)
    finish(own, first, 30.0)
    assert own.report(beside, 4, 48.0, last=False)
    third = own.ask()
    assert third is not None
    assert own.report(third, 1, 13.0, last=False)
    assert not own.report(third, 4, 47.0, last=False)


@pytest.mark.parametrize("pruner", ["MedianPruner", "SuccessiveHalvingPruner"])
@pytest.mark.parametrize("gone", ["its worker", "the search", "its machine"])
def test_what_was_to_be_pruned_is_not_run_again(opened: Open, tmp_path: Path, pruner: str, gone: str) -> None:
    """Whatever ends its process before it could stop."""
    stored = {"storage": sqlite(tmp_path), "pruner": pruner, "n_trials": 7}
    own = opened(**stored)
    own.take_over(tmp_path)
    run_curves(own, [GOOD[:2]] * 5)
    killed = own.ask()
    assert killed is not None
    assert not own.report(killed, 1, 0.5, last=False)
    if gone == "its worker":
        own.end(killed, Outcome(INTERRUPTED, experiment="id", folder="there"))
    folder = tmp_path / "trial-0005" / "net" / f"{5:012}"
    folder.mkdir(parents=True)
    write_manifest(Experiment(folder, f"{5:064}"), {"task": "trial-0005", "model": "net"})
    after = own if gone == "its worker" else opened(**stored)
    if gone == "the search":
        after.take_over(tmp_path)
    if gone == "its machine":
        with closing(sqlite3.connect(tmp_path / "study.db")) as connection, connection:
            connection.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    following = after.ask()
    assert following is not None
    row, last = after.rows()[5:]
    assert (row.number, row.state, row.epochs) == (5, PRUNED, {1: 0.5})
    found = {"its worker": ("id", "there"), "the search": (f"{5:064}", str(folder)), "its machine": ("", "")}
    assert (row.retry_of, row.experiment, row.folder) == ([], *found[gone])
    assert (last.number, last.state, last.retry_of) == (6, RUNNING, [])  # another trial, none that is run again
    finish(after, following)
    assert after.ask() is None


def uninterrupted(
    opened: Open, pruner: str, trials: int, seed: int
) -> tuple[dict[str, Any], list[list[float]], list[int]]:
    """Return (settings, the curve of each trial, after how many epochs each ends when nothing is killed)."""
    drawn = random.Random(seed)
    curves = [[start + n for n in range(9)] for start in (drawn.random() * 100 for _trial in range(trials))]
    settings = {"pruner": pruner, "n_trials": trials, "optuna_epochs": 9, "sampler": "RandomSampler"}
    lengths = run_curves(opened(**settings), curves)
    assert {1, 9} < set(lengths)
    return settings, curves, lengths


@pytest.mark.parametrize("pruner", ["SuccessiveHalvingPruner", "HyperbandPruner"])
def test_a_kill_before_the_answer_is_known_changes_no_pruning(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruner: str
) -> None:
    """Optuna notes that a trial was compared before it compares."""
    settings, curves, straight = uninterrupted(opened, pruner, trials=16, seed=1)
    own, lengths = opened(**settings), []
    for curve in curves:
        killed = own.ask()
        assert killed is not None
        with monkeypatch.context() as patched:
            asked = killed.trial.should_prune
            patched.setattr(killed.trial, "should_prune", lambda asked=asked: asked() and False)
            assert own.report(killed, 1, curve[0], last=False)
        own.end(killed, Outcome(INTERRUPTED, gracefully=True))
        again = own.ask()
        assert again is not None
        length, goes_on = 0, True
        while goes_on and length < 9:
            length += 1
            goes_on = own.report(again, length, curve[length - 1], last=length == 9)
        own.end(again, Outcome(COMPLETE if goes_on else PRUNED, [], [curve[length - 1]]))
        lengths.append(length)
    assert lengths == straight


def test_a_trial_that_is_run_again_is_not_asked_where_it_went_on(opened: Open) -> None:
    """Others have become better meanwhile; it is compared at the epoch after which it was killed."""
    own = opened(pruner="MedianPruner", n_trials=10)
    killed = own.ask()
    assert killed is not None
    assert all(own.report(killed, epoch, 5.0, last=False) for epoch in (1, 2))
    run_curves(own, [GOOD[:3]] * 5)
    own.end(killed, Outcome(INTERRUPTED))
    again = own.ask()
    assert again is not None
    assert again.first == killed.number
    assert [own.report(again, epoch, 5.0, last=False) for epoch in (1, 2)] == [True, False]


@pytest.mark.parametrize("pruner", ["SuccessiveHalvingPruner", "HyperbandPruner"])
def test_an_interruption_changes_no_pruning(opened: Open, pruner: str) -> None:
    settings, curves, straight = uninterrupted(opened, pruner, trials=40, seed=0)
    own, lengths = opened(**settings), []
    for curve in curves:
        first = own.ask()
        assert first is not None
        if own.report(first, 1, curve[0], last=False) and own.report(first, 2, curve[1], last=False):
            own.end(first, Outcome(INTERRUPTED, gracefully=True))
            lengths += run_curves(own, [curve])
        else:
            lengths.append(len(first.epochs))
            own.end(first, Outcome(PRUNED, []))
    assert lengths == straight


def test_the_place_of_a_trial_in_the_study() -> None:
    marks = [{}, {}, {"retry_of": [0]}, {"surplus": True}, {}, {"retry_of": [0, 2]}, {"retry_of": [1]}, {}]
    trials = [create_trial(state=TrialState.FAIL, user_attrs=attributes) for attributes in marks]
    for number, trial in enumerate(trials):
        trial.number = number
    assert sampling.places(trials) == {4: 2, 5: 0, 6: 1, 7: 3}


@pytest.mark.parametrize("pruner", ["MedianPruner", "SuccessiveHalvingPruner", "HyperbandPruner"])
def test_the_best_value_so_far_decides(opened: Open, pruner: str) -> None:
    """A trial that has been the best of all goes on, whatever its last epoch was; its own values are kept as they were."""
    own = opened(pruner=pruner, n_trials=20, optuna_epochs=9)
    curve = [90.0, 1.0, math.nan, -math.inf, 2.0, 1.0, 1.0, 1.0, 95.0]
    assert run_curves(own, [[50.0 + n] * 9 for n in range(10)] + [curve, [math.nan, 80.0] + [1.0] * 7])[-2:] == [9, 9]
    assert repr(own.rows()[10].epochs) == repr(dict(enumerate(curve, start=1)))


def test_the_quarter_that_percentile_leaves(opened: Open) -> None:
    """Percentile 25 is stricter than the median: a curve in the upper middle goes on under one of them only."""
    curves = [[10.0 * n] * 3 for n in range(1, 9)]
    ends = {}
    for pruner in ("MedianPruner", "PercentilePruner"):
        own = opened(pruner=pruner, n_trials=20, study_name=pruner)
        run_curves(own, curves)
        ends[pruner] = run_curves(own, [[55.0] * 3])
    assert ends == {"MedianPruner": [3], "PercentilePruner": [1]}


def test_the_last_epoch_is_no_time_for_pruning(opened: Open) -> None:
    own = opened(n_trials=8, optuna_epochs=1)
    assert run_curves(own, [[50.0]] * 7 + [[1.0]]) == [1] * 8
    assert states(own) == [COMPLETE] * 8


# ------------------------------------------------------------------------------------------------------------ objectives


def test_several_objectives(opened: Open) -> None:
    own = opened(
        n_trials=4, sampler="RandomSampler", direction=["maximize", "minimize"], metric=["val_accuracy", "seconds"]
    )
    for accuracy, seconds in ((50.0, 3.0), (60.0, 5.0), (40.0, 4.0), (60.0, 5.0)):
        suggestion = own.ask()
        assert suggestion is not None
        assert own.report(suggestion, 1, accuracy, last=False)
        own.end(suggestion, Outcome(COMPLETE, [{"epoch": 1}], [accuracy, seconds]))
    assert own.best() == [0, 1, 3]
    assert own.rows()[2].values == [40.0, 4.0]


def test_importances_find_what_matters(opened: Open) -> None:
    own = opened(n_trials=25, sampler="RandomSampler")
    assert own.importances() == {}
    search(own)
    found = own.importances()
    assert next(iter(found)) == "learning_rate"
    assert sum(found.values()) == pytest.approx(1)


# ----------------------------------------------------------------------------------------------------- repeats


def test_a_repeated_suggestion_is_answered_from_the_finished_one(opened: Open) -> None:
    space = {"batch_size": {"type": "categorical", "choices": [4, 8]}}
    own = opened(n_trials=10, sampler="RandomSampler", search_space=space)
    search(own)
    rows = own.rows()
    trained = [row for row in rows if row.repeat_of is None]
    assert len(trained) == 2
    for row in rows:
        first = rows[row.number if row.repeat_of is None else row.repeat_of]
        assert (row.values, row.epochs, row.point) == (first.values, first.epochs, first.point)


def test_a_failure_is_recorded_and_answers_too(opened: Open) -> None:
    own = opened(n_trials=3, search_space={"batch_size": {"type": "categorical", "choices": [4]}})
    suggestion = own.ask()
    assert suggestion is not None
    own.end(suggestion, Outcome(FAILED, error="The loss is no longer finite"))
    search(own)
    assert [(row.state, row.error) for row in own.rows()] == [(FAILED, "The loss is no longer finite")] * 3


# ----------------------------------------------------------------------------------------------------- killed and stopped


def by_state(own: Study, state: str) -> list[TrialRow]:
    return [row for row in own.rows() if row.state == state]


def test_kills_from_outside_are_no_fault_of_the_trial(opened: Open, tmp_path: Path) -> None:
    stored = {"storage": sqlite(tmp_path), "n_trials": 1}
    for _kill in range(LIVES + 1):
        own = opened(**stored)
        own.take_over(tmp_path)
        assert own.ask() is not None
    last = opened(**stored)
    last.take_over(tmp_path)
    search(last)
    assert states(last) == [COMPLETE]
    assert last.rows()[0].retry_of == [0, 1, 2, 3]


def test_nothing_stays_running_after_the_next_start(opened: Open, tmp_path: Path) -> None:
    stored = {"storage": sqlite(tmp_path), "n_trials": 5}
    straight = search(opened(n_trials=5))
    killed = opened(**stored)
    killed.take_over(tmp_path)
    search(killed, 2)
    lost = killed.ask()  # and now the process is gone
    assert lost is not None
    assert states(killed) == [COMPLETE, COMPLETE, RUNNING]
    after = opened(**stored)
    after.take_over(tmp_path)
    assert not by_state(after, RUNNING)
    again = after.ask()
    assert again is not None
    assert (again.point, again.first, again.number) == (lost.point, lost.number, 3)
    finish(after, again)
    search(after)
    assert states(after) == [COMPLETE] * 5
    assert [row.point for row in after.rows()] == straight  # the same suggestions as without the kill
    assert after.rows()[2].retry_of == [2]


def test_another_folder_leaves_running_trials_alone_until_their_heart_stops(opened: Open, tmp_path: Path) -> None:
    stored = {"storage": sqlite(tmp_path), "n_trials": 2, "heartbeat_seconds": 1}
    one, other = opened(**stored), opened(**stored)
    one.take_over(tmp_path / "one")
    other.take_over(tmp_path / "other")
    assert one.ask() is not None
    search(other)
    assert states(other) == [RUNNING, COMPLETE]
    assert other.ask() is None
    assert other.others_at_work()
    started = time.monotonic()
    while other.ask() is None and time.monotonic() - started < 2:
        one.beat()
        time.sleep(0.2)
    assert other.others_at_work()
    while (again := other.ask()) is None and time.monotonic() - started < 15:
        time.sleep(0.2)
    assert again is not None
    finish(other, again)
    assert not other.others_at_work()
    assert states(other) == [COMPLETE] * 2


def test_the_own_trial_is_never_declared_dead(opened: Open, tmp_path: Path) -> None:
    """After a sleep of the machine this process is the first that looks."""
    own = opened(storage=sqlite(tmp_path), n_trials=2)
    own.take_over(tmp_path)
    suggestion = own.ask()
    assert suggestion is not None
    assert own.database is not None
    own.next_beat = math.inf  # the clock of a machine that slept stood still
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection, connection:
        connection.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    assert own.database._get_stale_trial_ids(own.study._study_id)
    own._fail_the_silent(own.database)  # as if the storage had not heard the beat
    assert states(own) == [RUNNING]
    assert own.ask() is not None
    assert states(own) == [RUNNING, RUNNING]
    assert not own.database._get_stale_trial_ids(own.study._study_id)  # others know it too
    finish(own, suggestion)
    own._tell(1, TrialState.FAIL)  # as another process does that lost its patience a moment before
    own.revive()
    assert [row.retry_of for row in own.rows()] == [[], []]


def test_one_that_wakes_up_late_is_not_heard(opened: Open, tmp_path: Path) -> None:
    stored = {"storage": sqlite(tmp_path), "n_trials": 1}
    one, other = opened(**stored), opened(**stored)
    one.take_over(tmp_path)
    sleeper = one.ask()
    assert sleeper is not None
    other.take_over(tmp_path)
    again = other.ask()
    assert again is not None
    assert not one.report(sleeper, 1, 1.0, last=False)
    finish(one, sleeper, 1000.0)
    finish(other, again, 2.0)
    assert [row.values for row in other.rows()] == [[2.0]]


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_trial_that_was_killed_before_it_had_an_owner(opened: Open, tmp_path: Path) -> None:
    own = opened(storage=sqlite(tmp_path), n_trials=3, heartbeat_seconds=1)
    own.storage.create_new_trial(own.study._study_id)
    own.take_over(tmp_path)
    assert states(own) == [RUNNING]  # it may just have begun elsewhere
    search(own, 1)
    time.sleep(2.1)
    search(own)
    assert states(own) == [COMPLETE] * 3
    straight = search(opened(n_trials=3))
    assert [row.point for row in own.rows()] == [straight[1], straight[0], straight[2]]  # each has its place's numbers


def test_a_trial_that_was_killed_before_all_was_suggested(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {"storage": sqlite(tmp_path), "n_trials": 4}
    straight = search(opened(n_trials=4))
    killed = opened(**stored)
    killed.take_over(tmp_path)
    search(killed, 1)
    plain = killed.study.sampler.sample_independent

    def dies(study: Any, trial: Any, name: str, distribution: Any) -> Any:
        if name == "batch_size":
            raise KeyboardInterrupt
        return plain(study, trial, name, distribution)

    monkeypatch.setattr(killed.study.sampler, "sample_independent", dies)
    with pytest.raises(KeyboardInterrupt):
        killed.ask()
    after = opened(**stored)
    after.take_over(tmp_path)
    search(after)
    assert [row.point for row in after.rows()] == straight


def test_what_kills_its_process_again_and_again_has_failed(opened: Open, tmp_path: Path) -> None:
    own = opened(storage=sqlite(tmp_path), n_trials=2)
    for _life in range(LIVES):
        suggestion = own.ask()
        assert suggestion is not None
        own.end(suggestion, Outcome(INTERRUPTED))
    search(own)
    assert states(own) == [FAILED, COMPLETE]
    assert own.rows()[0].error == "its process was killed 3 times"


def test_a_stop_that_somebody_asked_for_is_no_death(opened: Open, tmp_path: Path) -> None:
    own = opened(storage=sqlite(tmp_path), n_trials=1)
    for _stop in range(2 * LIVES):
        suggestion = own.ask()
        assert suggestion is not None
        own.end(suggestion, Outcome(INTERRUPTED, gracefully=True))
        assert states(own) == [INTERRUPTED]
    search(own)
    assert states(own) == [COMPLETE]


def test_two_that_ask_at_once_begin_no_trial_too_many(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {"storage": sqlite(tmp_path), "n_trials": 3}
    one, other = opened(**stored), opened(**stored)
    search(one, 2)
    plain = one._ask

    def ask_late() -> Any:
        monkeypatch.undo()
        assert other.ask() is not None  # between the look at the count and the question
        return plain()

    monkeypatch.setattr(one, "_ask", ask_late)
    assert one.ask() is None
    assert states(one) == [COMPLETE, COMPLETE, RUNNING]


# ----------------------------------------------------------------------------------------------------- storage


def test_a_locked_database_is_waited_for(opened: Open, tmp_path: Path) -> None:
    own = opened(storage=sqlite(tmp_path), n_trials=1)
    suggestion = own.ask()
    assert suggestion is not None
    locked = threading.Event()

    def hold() -> None:
        with sqlite3.connect(tmp_path / "study.db", isolation_level=None) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            locked.set()
            time.sleep(1)
            connection.execute("COMMIT")
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()
    started = time.monotonic()
    finish(own, suggestion)
    thread.join()
    assert time.monotonic() - started > 0.5
    assert states(own) == [COMPLETE]


def test_a_database_that_stays_away_ends_the_search(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "LOCKED_SECONDS", 0.1)
    monkeypatch.setattr(study, "PATIENCE_SECONDS", 0)
    own = opened(storage=sqlite(tmp_path), n_trials=1)
    suggestion = own.ask()
    assert suggestion is not None
    connection = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DiskError, match=r"does not answer: .*database is locked"):
        finish(own, suggestion)
    connection.execute("COMMIT")
    connection.close()
    assert opened(storage=sqlite(tmp_path), n_trials=1).study.trials[0].state.name == "RUNNING"


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("no url", "The storage cannot be opened"),
        ("sqlite:////nowhere/at/all/study.db", "unable to open database file"),
        ("nosuchdatabase://x/y", "cannot be opened"),
        ("mysql://me:secret@localhost/x", "needs a driver"),
        ("postgresql://me:secret@127.0.0.1:9/x", "optuna.storage|needs a driver"),
    ],
)
def test_a_storage_that_cannot_be_opened(opened: Open, url: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as error:
        opened(storage=url)
    assert "secret" not in str(error.value)
    assert "psycopg:" not in str(error.value)  # what the reader did not write


def test_a_study_of_other_settings_is_not_continued(opened: Open, tmp_path: Path) -> None:
    opened({"learning_rate": "float:0x1.0p-1"}, storage=sqlite(tmp_path))
    opened({"learning_rate": "float:0x1.0p-1"}, storage=sqlite(tmp_path))
    with pytest.raises(ConfigError, match=r"made of something else\n +learning_rate 0\.5 → 0\.25"):
        opened({"learning_rate": "float:0x1.0p-2"}, storage=sqlite(tmp_path))
