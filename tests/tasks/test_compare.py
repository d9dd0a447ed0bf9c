"""`pochi compare`: the same images for all, what one fixes and breaks, and what the reader is told of the rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from scipy.stats import binomtest

from pochitrain import load_config, train
from pochitrain.engine.checkpoint import load_weights, save_weights
from pochitrain.engine.predict import Predictions
from pochitrain.errors import ConfigError, DataError, DiskError, PochiError
from pochitrain.history import History
from pochitrain.reports.comparison import (
    Contender,
    differing,
    duel,
    mcnemar,
    recall_changes,
    verdict,
    write_comparison,
)
from pochitrain.reports.evaluation import evaluate_predictions
from pochitrain.sinks.console import as_text
from pochitrain.tasks.calibrate import calibrate
from pochitrain.tasks.compare import aligned, compare, read_history, settings_table
from tests.conftest import TINY, make_images, pochi
from tests.reports.test_html import EVIL, Parsed

WriteConfig = Callable[..., Path]


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (1, 0), (5, 5), (3, 12), (12, 3), (0, 20), (181, 240)])
def test_mcnemar_is_the_exact_binomial_test(fixed: int, broken: int) -> None:
    expected = binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
    assert mcnemar(fixed, broken) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_holds_for_many_images() -> None:
    assert mcnemar(9000, 11000) == pytest.approx(binomtest(9000, 20000).pvalue, rel=1e-6)
    assert mcnemar(0, 20000) == 0.0


def answers(predicted: list[int], labels: list[int], paths: list[str] | None = None, classes: int = 3) -> Predictions:
    """Return answers that are the surer the later they come."""
    logits = np.zeros((len(labels), classes), dtype=np.float32)
    logits[np.arange(len(labels)), predicted] = np.linspace(1, 3, len(labels))
    shares = np.exp(logits.astype(np.float64))
    return Predictions(
        paths=tuple(paths or [f"/images/{number}.png" for number in range(len(labels))]),
        labels=np.array(labels),
        logits=logits,
        probabilities=shares / shares.sum(axis=1, keepdims=True),
        classes=tuple("abc"[:classes]),
        broken=(),
        seconds=1.0,
        precision="fp32",
    )


def contender(letter: str, its: Predictions, history: History | None = None, **settings: str) -> Contender:
    return Contender(letter, letter.lower() * 64, settings, history or [], its, evaluate_predictions(its))


LABELS = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
FIRST = [0, 0, 1, 1, 0, 0, 2, 2, 0, 1]  # wrong: 2, 4, 5, 8, 9
SECOND = [0, 1, 0, 1, 1, 0, 2, 2, 2, 2]  # wrong: 1, 5


def test_a_duel_names_the_images_that_one_fixes_and_breaks() -> None:
    first, second = contender("A", answers(FIRST, LABELS)), contender("B", answers(SECOND, LABELS))
    result = duel(first, second)
    assert result.fixed == [9, 8, 4, 2], "the surer the mistake was, the earlier"
    assert result.broken == [1]
    assert result.p == pytest.approx(binomtest(4, 5).pvalue)
    assert not result.significant
    assert "B fixes 4 of the images that A gets wrong, and breaks 1 that it gets right" in verdict(
        first, second, result
    )
    assert "may be chance alone" in verdict(first, second, result)
    back = duel(second, first)
    assert (back.fixed, back.broken) == ([1], [9, 8, 4, 2])
    assert recall_changes(first, second) == [("c", 0.5), ("b", pytest.approx(1 / 3)), ("a", 0.0)]


def test_a_clear_difference_is_said() -> None:
    labels = [0] * 12 + [1]
    first, second = contender("A", answers([1] * 13, labels)), contender("B", answers(labels, labels))
    assert "more than chance explains" in verdict(first, second, duel(first, second))


def test_only_settings_and_lines_that_differ_are_shown() -> None:
    long = "Compose(\n    Resize(64)\n    {}ToTensor()\n)"
    its = answers(FIRST, LABELS)
    three = [
        contender("A", its, seed="1", lr="0.1", transform=long.format(""), only_a="x"),
        contender("B", its, seed="1", lr="0.2", transform=long.format("Flip()\n    ")),
        contender("C", its, seed="1", lr="0.1", transform=long.format("Flip()\n    ")),
    ]
    assert differing(three) == {
        "lr": ["0.1", "0.2", "0.1"],
        "transform": ["", "Flip()", "Flip()"],
        "only_a": ["x", "", ""],
    }


def test_images_that_one_model_could_not_read_count_for_none() -> None:
    first, second = aligned([answers([0, 1, 2], [0, 1, 1], ["x", "y", "z"]), answers([0, 1], [0, 1], ["x", "z"])])
    assert first.paths == second.paths == ("x", "z")
    assert first.predicted.tolist() == [0, 2]
    assert first.labels is not None
    assert first.labels.tolist() == [0, 1]


def test_the_page_shows_every_part_and_reads_no_name_as_html(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", {EVIL.replace("/", "_"): 10})
    paths = [str(path) for path in sorted(images.glob("*/*"))]
    records = [{"epoch": epoch, "train_loss": 2.0 / epoch, "val_accuracy": 40.0 + epoch} for epoch in (1, 2, 3)]
    named = [
        Predictions(**{**vars(answers(each, LABELS, paths)), "classes": (EVIL, "b", "c")}) for each in (FIRST, SECOND)
    ]
    both = [contender(letter, its, records, note=f"{letter}{EVIL}") for letter, its in zip("AB", named, strict=True)]
    write_comparison(both, tmp_path / "page.html", notes=[EVIL])
    page = Parsed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(page.scripts) == 3
    assert not any(key.startswith("on") for _tag, attributes in page.tags for key in attributes)
    assert "Judged on the same 10 images" in page.text
    assert "B is right where A is wrong: 4" in page.text
    assert "A is right where B is wrong: 1" in page.text
    assert len(page.named("img")) == 5
    charts = json.loads(page.scripts[0])["charts"]
    assert set(charts) == {"val_accuracy", "train_loss"}
    assert [(trace["name"], trace["y"]) for trace in charts["val_accuracy"]["data"]] == [
        (each.title, [41, 42, 43]) for each in both
    ]


# ---- real experiments ----


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return two experiments on the same images, and the folder that everything lies in. Do not change them."""
    root = tmp_path_factory.mktemp("two")
    make_images(root / "train", {"ant": 6, "bee": 6})
    make_images(root / "val", {"ant": 4, "bee": 4}, seed=1)
    found = []
    for name, rate in (("a", 0.01), ("b", 0.1)):
        text = TINY.format(train=str(root / "train"), val=str(root / "val"), work_dir=str(root / "work"))
        (root / f"{name}.py").write_text(text + f"learning_rate = {rate}\n", encoding="utf-8")
        found.append(train(load_config(root / f"{name}.py")).experiment)
    return {"root": root, "work": root / "work", "experiments": found, "ids": [each.id[:12] for each in found]}


def test_two_experiments_on_the_command_line(two: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    done = pochi("compare", *two["ids"], "--work-dir", two["work"], "--output", page)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    words = done.stdout.split()
    assert words[words.index("learning_rate") + 1 :][:2] == ["0.01", "0.1"]
    assert "batch_size" not in words, "it does not differ"
    assert "McNemar" in done.stdout
    assert f"report  {page}" in done.stdout.replace("\n", "")
    text = Parsed(page.read_text(encoding="utf-8")).text
    for experiment in two["experiments"]:
        accuracy = json.loads(experiment.experiment_json.read_text())["best"]["val_accuracy"]
        assert f"{accuracy:.1f} %" in done.stdout
        assert f"{accuracy:.1f} %" in text
    assert "Judged on the same 8 images" in text


def test_the_page_lies_in_the_work_folder_and_histories_are_read(two: dict[str, Any]) -> None:
    path = compare(two["ids"][::-1], two["work"])
    assert path == two["work"] / "compare" / f"{two['ids'][1]}-{two['ids'][0]}.html"
    assert path.is_file()
    history = read_history(two["experiments"][0])
    assert [record["epoch"] for record in history] == [1, 2]
    best = json.loads(two["experiments"][0].experiment_json.read_text())["best"]
    assert {name: history[best["epoch"] - 1][name] for name in best} == best


def test_other_images_can_be_given(two: dict[str, Any], tmp_path: Path) -> None:
    make_images(tmp_path / "new", {"ant": 2, "bee": 3}, seed=2)
    path = compare(two["ids"], two["work"], data=[str(tmp_path / "new")], output=tmp_path / "page.html")
    assert "Judged on the same 5 images" in path.read_text(encoding="utf-8")
    assert "calibrated" not in Parsed(path.read_text(encoding="utf-8")).text
    (tmp_path / "new" / "ant" / "000.png").unlink()
    (tmp_path / "new" / "ant" / "001.png").unlink()
    with pytest.raises(DataError, match="Class ant holds no image"):
        compare(two["ids"], two["work"], data=[str(tmp_path / "new")])
    path = compare(two["ids"], two["work"], data=[str(tmp_path / "new")], allow_missing=True)
    assert path.name == f"{'-'.join(two['ids'])}-new.html", "not the page about the validation images"
    assert "Judged on the same 3 images" in path.read_text(encoding="utf-8")


def test_weights_of_one_experiment_are_told_apart(
    two: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last = str(two["experiments"][0].last_pt)
    path = compare([two["ids"][0], last], two["work"])
    assert path.name == f"{two['ids'][0]}-{two['ids'][0]}-last.html"
    assert f"B {two['ids'][0]} last" in capsys.readouterr().out
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"another folder \(--output\)"):
        compare([two["ids"][0], last], two["work"], output=tmp_path / "file" / "page.html")


def test_long_values_differ_where_they_are_shown() -> None:
    its = answers(FIRST, LABELS)
    long = "/data/" + 150 * "x"
    shown = as_text(settings_table([contender(letter, its, root=long + letter) for letter in "AB"]))
    assert shown.count("x") == 300
    assert "…" not in shown


def test_a_calibration_that_only_one_has_is_said(two: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(two["experiments"][1].dir, tmp_path / "copy")
    calibrate(str(tmp_path / "copy"))
    page = compare([two["ids"][0], str(tmp_path / "copy")], two["work"], output=tmp_path / "page.html")
    assert (
        "Only B answers with a calibrated confidence: log losses and calibration errors cannot be compared"
        in page.read_text(encoding="utf-8")
    )
    both = [str(tmp_path / "copy")] * 2
    page = compare(both, two["work"], output=tmp_path / "page.html")
    assert "calibrated confidence" not in Parsed(page.read_text(encoding="utf-8")).text


def test_of_different_validation_data_the_common_images_are_judged_and_it_is_said(
    two: dict[str, Any], write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "some.csv"
    rows = [f"{two['root']}/val/{name}/{number:03d}.png,{name}" for name in ("ant", "bee") for number in (0, 1, 3)]
    table.write_text("path,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    config = write_config(f"val_data_root = {str(table)!r}\nwork_dir = {str(two['work'])!r}", data=two["root"])
    third = train(load_config(config)).experiment
    capsys.readouterr()
    try:
        path = compare([two["ids"][0], third.id], two["work"], output=tmp_path / "page.html")
    finally:
        shutil.rmtree(third.dir)
    said = capsys.readouterr().out.replace("\n", "")
    assert "A and B have different validation data" in said
    assert "different training data" not in said
    assert "Only the 6 validation images that all of them have are judged" in said
    text = path.read_text(encoding="utf-8")
    assert "Judged on the same 6 images" in text
    assert "A and B have different validation data" in text


def test_what_cannot_be_compared_says_why(two: dict[str, Any], write_config: WriteConfig, tmp_path: Path) -> None:
    first = two["ids"][0]

    def refused(kind: type[PochiError], *names: str, **more: Any) -> str:
        with pytest.raises(kind) as caught:
            compare(names, two["work"], output=tmp_path / "page.html", **more)
        return str(caught.value)

    assert "Two to 26 experiments can be compared; given: 1" in refused(ConfigError, first)
    assert "No experiment" in refused(ConfigError, first, "ffff")
    payload = load_weights(two["experiments"][0].best_pt)
    model = torchvision.models.squeezenet1_1(num_classes=2)  # needs no code of the user's, so the file is enough
    payload |= {
        "settings": {**payload["settings"], "model": None, "model_name": "squeezenet1_1"},
        "model": model.state_dict(),
    }
    save_weights(tmp_path / "loose.pt", payload)
    assert "no settings and no history" in refused(ConfigError, str(tmp_path / "loose.pt"), first)
    plain = make_images(tmp_path / "plain", {"new": 2})
    assert "true classes" in refused(DataError, first, two["ids"][1], data=[str(plain)])

    other = make_images(tmp_path / "other", {"ant": 4, "bee": 4}, size=(9, 8))
    shutil.copytree(other, tmp_path / "train")
    shutil.copytree(other, tmp_path / "val")
    config = write_config(f"work_dir = {str(two['work'])!r}", name="other.py", data=tmp_path)
    apart = train(load_config(config)).experiment
    assert "no validation image in common" in refused(DataError, first, apart.id)
    shutil.rmtree(apart.dir)

    shutil.copytree(other / "ant", tmp_path / "train" / "cat")
    shutil.copytree(other / "ant", tmp_path / "val" / "cat")
    apart = train(load_config(config)).experiment
    assert "A and B know different classes: cat" in refused(DataError, first, apart.id)
    shutil.rmtree(apart.dir)
    assert not (tmp_path / "page.html").exists()
