"""``python diagnose.py``: the rules of the monitor over a training that is over, of any framework."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from maskwell import build, checkpoint, runs
from maskwell.errors import UserError
from maskwell.health import report
from maskwell.health import signals as names
from maskwell.health.engine import Engine
from maskwell.health.rules import Rule
from maskwell.logs import csv_file, tensorboard_folder, wandb_run
from maskwell.logs.feed import Feeder
from maskwell.logs.rows import Notes, Row

METRICS = "metrics.csv"
FOLDER = "diagnosis"
"""In the run folder, or here: the report of the running monitor stays as it is."""
CAPTURE = "first_bad.ckpt"
CAUSES_SHOWN = 3


def diagnose(cfg: DictConfig, origin: runs.Origin | None = None) -> None:
    """Judge the log named by ``cfg.input``, or replay the first bad step of the run ``cfg.replay``.

    Raises:
        UserError: there is nothing to read, or several runs and none was chosen.
    """
    if cfg.replay:
        _replay(Path(cfg.replay), cfg)
        return
    if not cfg.input:
        raise UserError("Name what to diagnose: a run folder, a CSV, a TensorBoard or a W&B folder.")
    source = Path(cfg.input)
    feeder = Feeder(_rules(cfg.health), _plain(cfg.health, "roles"))
    rows = _rows(source, cfg.run, feeder.notes)
    engine = feeder.run(rows)
    _show(engine, feeder.notes, _write(engine, source, cfg))


def _write(engine: Engine, source: Path, cfg: DictConfig) -> Path:
    folder = Path(cfg.output) if cfg.output else (source if source.is_dir() else Path()) / FOLDER
    path = folder / "health.json"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        report.write({**engine.report(), "source": str(source), "updated": now}, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give output=FOLDER.") from error
    return path


def _rules(health: DictConfig | None) -> dict[str, Rule]:
    if not health or not health.get("rules"):
        raise UserError("health=none has no rules: choose health=default or a guide_<family>.")
    return {
        str(name): build.part(node, f"health.rules.{name!s}")
        for name, node in health.rules.items()
        if node is not None
    }


def _plain(health: DictConfig, key: str) -> dict[str, Any]:
    found = OmegaConf.to_container(health.get(key) or OmegaConf.create({}), resolve=True)
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}


def _rows(source: Path, run: str | None, notes: Notes) -> Iterator[Row]:
    """The log at ``source``, by what lies there."""
    if source.is_file():
        if source.suffix == ".wandb":
            return wandb_run.read(source, notes)
        if source.name.startswith("events.out.tfevents"):
            return tensorboard_folder.read(source.parent, notes)
        return csv_file.read(source, notes)
    if not source.is_dir():
        raise UserError(f"input={source}: there is no such file or folder.")
    if (source / METRICS).is_file():
        return csv_file.read(source / METRICS, notes)
    wandb_files = wandb_run.runs(source)
    if wandb_files:
        return wandb_run.read(_one(wandb_files, run, source, "W&B runs"), notes)
    boards = tensorboard_folder.runs(source)
    if boards:
        return tensorboard_folder.read(_one(boards, run, source, "TensorBoard runs"), notes)
    tables = sorted(source.rglob("*.csv"))
    if tables:
        return csv_file.read(_one(tables, run, source, "CSV files"), notes)
    raise UserError(
        f"input={source}: the folder holds no {METRICS}, no other CSV, no TensorBoard events and no W&B run."
    )


def _one(found: list[Path], run: str | None, source: Path, what: str) -> Path:
    """The only one, or the one whose path holds ``run``."""
    chosen = [path for path in found if run is None or run in str(path)]
    if len(chosen) == 1:
        return chosen[0]
    root = source.resolve()
    listed = ", ".join(str(p.resolve().relative_to(root)) or "." for p in (chosen or found)[:6])
    if not chosen:
        raise UserError(f"run={run} is none of the {what} in {source}: {listed}.")
    raise UserError(f"{source} holds {len(chosen)} {what}: name one by run=... ({listed}).")


def _show(engine: Engine, notes: Notes, path: Path) -> None:
    for message in notes.messages:
        print(f"note: {message}")
    if notes.dropped:
        print(f"note: left out, since they hold no numbers: {', '.join(sorted(notes.dropped)[:8])}")
    for incident in engine.ranked_incidents:
        word = "broken" if incident.severity == "error" else "look at"
        print(f"\n{word}, step {incident.first_step}: {incident.cause.line()}")
        likely = [f"{r.label} {r.score:.2f}" for r in incident.ranked[:CAUSES_SHOWN]]
        if likely:
            print(f"  likely causes: {', '.join(likely)}")
        for finding in incident.findings:
            if finding is not incident.cause:
                print(f"  also {finding.rule}: {finding.line()}")
    told = sum(incident.severity == "info" for incident in engine.incidents)
    more = f", {told} more for information" if told else ""
    signals = engine.signals
    count = len(engine.ranked_incidents)
    print(f"\nverdict: {engine.verdict} after {signals.step} steps ({count} incidents{more})")
    print(f"report: {path}")


def _replay(folder: Path, cfg: DictConfig) -> None:
    """Repeat the first bad step of a run and name the first module that was not finite."""
    from maskwell import restore
    from maskwell.callbacks.monitor.capture import replay
    from maskwell.callbacks.step_seed import reseed

    path = folder / CAPTURE if folder.is_dir() else folder
    if not path.is_file():
        raise UserError(f"replay={folder}: there is no {CAPTURE}; no step of this run was NaN or infinite.")
    content = checkpoint.read(path)
    task, seed = restore.fresh(content, path)

    def prepare(iteration: int, rank: int) -> None:
        reseed(seed, 0, iteration, rank)

    found = replay(task, content, task.training_loss, prepare)
    engine, step = Engine(_rules(cfg.health)), found["step"]
    engine.signals.step = step
    for place in found["bad_inputs"]:
        engine.signals.record(names.INPUT_BAD + place, step, 1.0, "event")
    if found["module"]:
        engine.signals.record(names.MODULE_BAD + found["module"], step, 1.0, "event")
    else:
        engine.signals.record(names.SYSTEM + "rerun_finite", step, 1.0, "count")
    engine.check("step")
    print(f"step {step}, samples: {', '.join(found['samples'][:8]) or 'not known'}")
    if found["module"]:
        print(f"first bad module: {found['module']} ({found['direction']} pass)")
    else:
        print(f"the step is finite when it is repeated (loss {found['loss']:.4g}): the machine, or chance")
    _show(engine, Notes(), _write(engine, path.parent, cfg))
