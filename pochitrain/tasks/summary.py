"""What a training says at its start, after each epoch and at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pochitrain.config.schema import Config
from pochitrain.data.pipeline import plan_of
from pochitrain.engine.feed import usable_cores
from pochitrain.engine.run import Run
from pochitrain.history import History, Record, best_epoch, least_change, monitored
from pochitrain.locale import _
from pochitrain.sinks.console import Log
from pochitrain.tasks.prepare import Plan

if TYPE_CHECKING:
    from pochitrain.tasks.train import Trained


_WORTH_TELLING = 1.0  # seconds of waiting in an epoch
WAITING_SHARE = 0.2  # of an epoch: from here on the run says that it waits for its images


def say_start(log: Log, plan: Plan, run: Run) -> None:
    """Say what is trained on what, and what was decided for this machine."""
    data, experiment = plan.data, plan.experiment
    log.info(_("experiment  {path}", path=experiment.dir))
    counts = _("{count} images", count=len(data.train))
    val = _("{count} images", count=len(data.val)) if data.val else _("none")
    log.info(
        _(
            "data        train {train}, validation {val}, {classes} classes",
            train=counts,
            val=val,
            classes=len(data.classes),
        )
    )
    for note in data.notes:
        log.warning(note)
    size = f"{sum(parameter.numel() for parameter in run.model.parameters()):,}"
    layout = ", channels_last" if run.channels_last else ""
    name = experiment.dir.parent.name
    log.info(
        _(
            "model       {name}, {size} parameters, on {device} in {precision}{layout}",
            name=name,
            size=size,
            device=run.device,
            precision=run.precision,
            layout=layout,
        )
    )
    if run.precision_note:
        log.info(_("precision   {precision}: {reason}", precision=run.precision, reason=run.precision_note))
    log.info(_("loading     {how}", how=_how_images_come(run)))
    if (count := len(run.train_loader.workers.pids)) > (cores := usable_cores()):
        log.warning(_("{count} loading processes share {cores} processor cores", count=count, cores=cores))
    if any(weight != 1 for weight in run.class_weights):
        shown = ", ".join(f"{name}: {weight:.4g}" for name, weight in zip(run.classes, run.class_weights, strict=True))
        log.info(_("class weights  {weights}", weights=shown))
    if run.groups:
        log.table(layer_table(run))
    if plan.config.val_data_root is None and plan.config.early_stopping.enabled and data.val is None:
        log.warning(_("without validation data early stopping watches train_loss"))


def _how_images_come(run: Run) -> str:
    """Return what was chosen for the training images: "in this process, 600 images of 0.2 MB cached in memory"."""
    loader = run.train_loader
    samples, workers = loader.samples, len(loader.workers.pids)
    by = _("{count} processes", count=workers) if workers else _("in this process")
    if samples.store is None:
        kept = _("no cache")
    else:
        place = _("on the disk") if samples.store.lasting else _("in memory")
        limit = f"{max(samples.store.limit_bytes, 0) / 1e9:.1f}"
        kept = _("decoded images cached {place} (at most {limit} GB)", place=place, limit=limit)
    parted = samples.labels is not None and plan_of(samples.transform).once
    given_up = (
        _("; the transform in one piece, in parts it gives other pixels") if parted and not samples.plan.once else ""
    )
    return f"{by}, {kept}{given_up}"


def layer_table(run: Run) -> Table:
    """Return pattern → tensors → rate."""
    table = Table(box=SIMPLE_HEAD, title=_("Layer-wise learning rates"), title_justify="left")
    table.add_column(_("pattern"), overflow="fold")
    table.add_column(_("tensors"), justify="right")
    table.add_column(_("parameters"), justify="right")
    table.add_column(_("rate"), justify="right")
    sizes = {name: parameter.numel() for name, parameter in run.model.named_parameters()}
    for group in run.groups:
        rate = f"{group.rate:g}" if group.rate else _("0 (frozen)")
        table.add_row(group.pattern, str(len(group.names)), f"{sum(sizes[name] for name in group.names):,}", rate)
    return table


def say_epoch(log: Log, record: Record, config: Config, history: History) -> None:
    """Say one line for an epoch; a star marks the best so far, the share of waiting is told where it is large."""
    val = f"   val {record['val_loss']:.4f} {record['val_accuracy']:6.2f} %" if "val_loss" in record else ""
    star = " *" if best_epoch(history, config.early_stopping.monitor) == record["epoch"] else ""
    width = len(str(config.epochs))
    log.info(
        _("epoch {epoch}/{epochs}", epoch=f"{record['epoch']:{width}}", epochs=config.epochs)
        + f"   lr {record['learning_rate']:.3g}"
        + f"   train {record['train_loss']:.4f} {record['train_accuracy']:6.2f} %{val}"
        + f"   {record['seconds']:.1f} s"
        + _speed(record)
        + star
        + _waiting(record)
    )


def _speed(record: Record) -> str:
    """Return the speed; nothing for an epoch of which an earlier life of the run has seen every image."""
    speed = record["images_per_second"]
    return f" {speed:.{0 if speed >= 10 else 1}f} " + _("images/s") if speed else ""


def _waiting(record: Record) -> str:
    share = record["data_seconds"] / record["seconds"] if record["data_seconds"] >= _WORTH_TELLING else 0.0
    return "   " + _("waits for data {share}", share=f"{share:.0%}") if share > WAITING_SHARE else ""


def say_end(log: Log, trained: Trained, config: Config) -> None:
    """Say the result as a table, and where everything lies."""
    experiment, history, _metric = trained
    best = best_epoch(history, config.early_stopping.monitor)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    records = {_("best epoch {epoch}", epoch=best): history[best - 1]} if best else {}
    records[_("last epoch {epoch}", epoch=len(history))] = history[-1]
    for title in records:
        table.add_column(title, justify="right")
    shown = [name for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy") if name in history[-1]]
    for name in shown:
        cells = [
            f"{record[name]:.2f} %" if name.endswith("accuracy") else f"{record[name]:.4f}"
            for record in records.values()
        ]
        table.add_row(name, *cells)
    log.table(table)
    if advice := waiting_advice(history, config):
        log.warning(advice)
    monitor, model = monitored(history, config.early_stopping.monitor), experiment.best_pt
    if best:
        log.info(_("best epoch chosen by {monitor}", monitor=monitor))
    else:
        log.warning(_("{monitor} was never a number: there is no best epoch", monitor=monitor))
        model = experiment.last_pt
    if experiment.metrics_csv.exists():
        log.info(_("metrics  {path}", path=experiment.metrics_csv))
    if experiment.plots_dir.exists():
        log.info(_("plots    {path}", path=experiment.plots_dir))
    log.info(_("model    {path}", path=model))


def say_stopped_early(log: Log, history: History, config: Config) -> None:
    """Say why the training ends before its last epoch."""
    settings = config.early_stopping
    said = {
        "count": settings.patience,
        "change": f"{least_change(history, settings):g}",
        "monitor": monitored(history, settings.monitor),
    }
    if least_change(history, settings):
        log.info(_("stopped early: {count} epochs without an improvement of {change} in {monitor}", **said))
    else:
        log.info(_("stopped early: {count} epochs without an improvement in {monitor}", **said))


def waiting_advice(history: History, config: Config) -> str:
    """Return what to do when the epochs after the first, which fills the cache, waited for their images; else ""."""
    later = [record for record in history[1:] if "data_seconds" in record] or history[:1]
    waited, seconds = (sum(record.get(name, 0.0) for record in later) for name in ("data_seconds", "seconds"))
    if waited < _WORTH_TELLING * len(later) or not seconds or waited / seconds <= WAITING_SHARE:
        return ""
    cores = usable_cores()
    advice = []
    if (config.num_workers or 0) < cores:
        advice.append(_("num_workers = {count}", count=cores))
    if config.dataset is None:
        if config.cache == "off":
            advice.append('cache = "auto"')
        if not plan_of(config.train_transform).once:
            advice.append(_("a Resize before the random steps, so that the cache holds smaller images"))
    advice.append(_("fewer or cheaper random steps"))
    return _(
        "{share} of the time the model waited for images. Try: {advice}",
        share=f"{waited / seconds:.0%}",
        advice="; ".join(advice),
    )
