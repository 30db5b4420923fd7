"""``report.html``: one self-contained file about one run, which opens without a network."""

from __future__ import annotations

import base64
import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from omegaconf import OmegaConf
from PIL import Image

from maskwell.report import curves
from maskwell.report.charts import number
from maskwell.report.run import Run, better, read

FILE = "report.html"
PICTURE_SIDE = 1600
"""Longer side, in px, of the pictures in the page."""
SHOWN_CLASSES = 40
"""Rows of the table of classes; more are counted only."""


def write(folder: Path, output: Path | None = None) -> Path:
    """Write the page of the run in ``folder``, as ``report.html`` in it unless ``output`` is given.

    Raises:
        UserError: the folder holds no run.
    """
    path = output or folder / FILE
    return save(render(read(folder)), path)


def save(page: str, path: Path) -> Path:
    """Put a page at ``path`` so that it is never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp")
    beside.write_text(page, encoding="utf-8")
    beside.replace(path)
    return path


def render(run: Run) -> str:
    """The page of a run."""
    return template("run.html.j2").render(
        run=run,
        verdict=run.health.get("verdict", "not watched"),
        summary=summary(run),
        tiles=_tiles(run),
        findings=[
            (index, incident, chart.svg() if (chart := curves.finding_chart(run, index, incident)) else "")
            for index, incident in enumerate(run.incidents, 1)
        ],
        metrics=_metrics(run),
        classes=_classes(run),
        sections=curves.sections(run),
        cases=[picture(path) for path in run.pictures("cases")],
        panels=_panels(run),
        confusion=_confusion(run),
        evaluations=_evaluations(run),
        commands=commands(run),
        config=OmegaConf.to_yaml(run.config),
        overrides=run.origin.overrides,
        groups={group: choice for group, choice in run.origin.choices.items() if choice},
    )


@lru_cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("maskwell.report", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    environment.filters["caption"] = lambda name: str(name).replace("_", " ")
    return environment


def template(name: str) -> jinja2.Template:
    """A page's template, with HTML escaped."""
    return _environment().get_template(name)


def summary(run: Run) -> str:
    """What became of the run, in one or two sentences."""
    known = run.health.get("verdict")
    causes = [incident.cause.cause for incident in run.incidents]
    if known is None:
        first = "No health monitor watched this run."
    elif not causes:
        first = "The monitor found nothing wrong."
    else:
        word = causes[0].split()[0]  # the name of a loss stays as it is
        first = f"{causes[0] if '_' in word else causes[0][0].upper() + causes[0][1:]}."
        if len(causes) > 1:
            first += f" {len(causes) - 1} more finding{'s' if len(causes) > 2 else ''} below."
    ended = run.exit
    return first if ended in ("", "finished") else f"{first} The run ended early: {ended}."


def commands(run: Run) -> dict[str, str]:
    """Command lines that repeat, resume and use the run."""
    folder = shown(run.folder)
    own = ("paths.run_dir", "ckpt_path", "hydra.")
    overrides = [o for o in run.origin.overrides if not o.lstrip("+~").startswith(own)]
    prompt = ' prompt="..."' if run.family == "sam_lora" else ""
    return {
        "repeat": " ".join(["python train.py", *(shlex.quote(o) for o in dict.fromkeys(overrides))]),
        "resume": f"python train.py ckpt_path={folder}",
        "evaluate": f"python evaluate.py ckpt={folder} split=test",
        "predict": f"python predict.py ckpt={folder} input=IMAGE_OR_FOLDER{prompt}",
        "a new run from these weights": f"python train.py init_from={folder} data.root=OTHER_DATA",
        "export": f"python -m maskwell.export {folder} exported/",
        "this page again": f"python -m maskwell.report {folder}",
    }


def shown(folder: Path) -> str:
    """A folder as it is typed: relative to the working directory where it lies below it."""
    whole = folder.resolve()
    inside = whole.is_relative_to(Path.cwd())
    return shlex.quote(str(whole.relative_to(Path.cwd()) if inside else whole))


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """(what, value, beside it) of the figures at the top."""
    tiles = []
    monitor = _monitored(run)
    if monitor is not None:
        name, value, base = monitor
        against = f"before training {number(base)}" if base is not None else run.figures_of
        tiles.append((name, number(value), against))
    length = run.results.get("iteration") or run.history.length
    sessions = f"{len(run.sessions)} sessions" if len(run.sessions) > 1 else run.exit or "running"
    tiles.append(("iterations", f"{int(length):,}", sessions))
    if run.minutes is not None:
        peak = (run.sessions[-1].get("peak_memory_gib") or {}).get("process")
        beside = f"peak memory {peak:.1f} GiB" if peak else ""
        tiles.append(("minutes", number(round(run.minutes, 1)), beside))
    images = run.dataset.get("images") or {}
    if images:
        rest = ", ".join(
            f"{count:,} {split}" for split, count in images.items() if split != "train" and count
        )
        tiles.append(("training images", f"{images.get('train', 0):,}", rest))
    return tiles


def _monitored(run: Run) -> tuple[str, float, float | None] | None:
    """Name, final value and value before training of the metric that the family goes by."""
    figures = run.figures()
    name = next((n for n in ("cgf1", "miou", "f1_9_6", "map", "f1") if n in figures), None)
    if run.family == "sam_lora" and "map" in figures:
        name = "map"
    if name is None:
        return None
    base = (run.results.get("base") or {}).get(name)
    return name, figures[name], base


def _metrics(run: Run) -> dict[str, Any]:
    """The table of figures: before and after training where both were scored."""
    figures = run.figures()
    base = run.results.get("base") or {}
    plain = {n: v for n, v in figures.items() if "/" not in n and not n.startswith("loss")}
    rows = [(name, base.get(name), value, better(name)) for name, value in plain.items()]
    return {"of": run.figures_of, "base": bool(base), "rows": rows}


def _classes(run: Run) -> dict[str, Any]:
    """Figures of single classes (``ap/car``): a row per class, a column per figure."""
    columns: dict[str, dict[str, float]] = {}
    for name, value in run.figures().items():
        figure, _, of = name.partition("/")
        if of and not figure.startswith(("loss", "pixel_error")):
            columns.setdefault(figure, {})[of] = value
    counts = run.dataset.get("objects_by_category") or {}
    names = list(dict.fromkeys(of for column in columns.values() for of in column))
    rows = [(of, counts.get(of), [column.get(of) for column in columns.values()]) for of in names]
    first = len(columns) and next(iter(columns))
    rows.sort(key=lambda row: (row[2][0] is None, row[2][0]) if first else (False, 0.0))
    return {
        "columns": list(columns),
        "rows": rows[:SHOWN_CLASSES],
        "left_out": max(0, len(rows) - SHOWN_CLASSES),
        "counted": bool(counts),
    }


def _panels(run: Run) -> list[tuple[str, str]]:
    """(caption, picture): before training, and at the last validation."""
    files = run.pictures("panels")
    before = [path for path in files if path.stem == "base"]
    kinds: dict[str, Path] = {}
    for path in files:  # the newest of each kind: iter_000200, states_iter_000200
        if path.stem != "base":
            kinds[path.stem.rpartition("_")[0]] = path
    newest = [(_when(path.stem), path) for path in kinds.values()]
    return [
        (caption, picture(path)) for caption, path in [*(("before training", p) for p in before), *newest]
    ]


def _when(stem: str) -> str:
    kind, _, iteration = stem.rpartition("iter_")
    count = f"iteration {int(iteration):,}" if iteration.isdigit() else stem
    return f"{count} ({kind.strip('_')})" if kind.strip("_") else count


def _confusion(run: Run) -> dict[str, Any]:
    """Names, shares in per cent and counts of the newest confusion matrix."""
    content = run.confusion
    names, shares = content.get("classes") or [], content.get("shares") or []
    if not names or len(names) > SHOWN_CLASSES:
        return {}
    unit = "objects" if "objects" in content else "pixels"
    counts = content.get(unit) or []
    return {"names": names, "unit": unit, "rows": list(zip(names, shares, counts, strict=True))}


def _evaluations(run: Run) -> list[dict[str, Any]]:
    """Every ``evaluate.py`` of this run, the newest first, with its curves."""
    shown = []
    for folder, content in reversed(run.evaluations):
        drawn = [picture(path) for path in sorted(folder.glob("curves*.png"))]
        shown.append({"name": folder.name, **content, "curves": drawn, "worst": _worst(folder)})
    return shown


def _worst(folder: Path, rows: int = 8) -> Sequence[Mapping[str, str]]:
    """The first rows of the images by error."""
    path = folder / "images.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row, _ in zip(csv.DictReader(file), range(rows), strict=False)]


def picture(path: Path) -> str:
    """A picture as a data address, made smaller where it is large."""
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((PICTURE_SIDE, 4 * PICTURE_SIDE))
        held = io.BytesIO()
        small.save(held, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode('ascii')}"
