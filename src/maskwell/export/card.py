"""The model card: what the model is, its data, how good it is, and how healthy its training was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maskwell.data.sample import InputSpec
from maskwell.models.base import BaseTask
from maskwell.report.charts import number
from maskwell.report.run import Run

DOES = {
    "sam_lora": "finds the objects that a phrase names, with a mask each (SAM 3 with LoRA adapters)",
    "s4gan": "gives every pixel a class (semi-supervised semantic segmentation)",
    "points": "marks objects one after another until none is left (counting)",
    "detr": "finds objects of its classes, with a box each (a detection transformer)",
}
LICENCES = {
    "sam_lora": "The weights derive from SAM 3 where the base does: see the SAM License in THIRD_PARTY.md."
}


def card(
    task: BaseTask,
    categories: Sequence[str],
    run: Run | None,
    files: Mapping[str, str],
    differences: Mapping[str, float],
    images: int,
) -> str:
    """The card as Markdown.

    Args:
        task: with its weights.
        categories: of the data it was trained on.
        run: the run it comes from; None where the checkpoint lies alone.
        files: name -> what it is, of the export.
        differences: ONNX graph -> largest difference from PyTorch over ``images`` real images.
        images: see there.
    """
    title = run.name if run else task.family
    parts = [
        f"# {title}",
        f"A model of the family `{task.family}`: it {DOES.get(task.family, 'was trained with maskwell')}.",
        _list("Classes", [", ".join(categories) or "those of the prompt"]),
        _list("Files", [f"`{name}`: {what}" for name, what in files.items()]),
        _list("Input", _input(task.input_spec)),
    ]
    if differences:
        rows = [f"`{name}.onnx`: {number(off)}" for name, off in differences.items()]
        parts.append(_list(f"ONNX: largest difference from PyTorch over {images} real images", rows))
    if run is not None:
        parts += [_figures(run), _data(run), _health(run)]
    if task.family in LICENCES:
        parts.append(_list("Licence", [LICENCES[task.family]]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _list(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _input(spec: InputSpec) -> list[str]:
    size = f"{spec.size} px" if spec.size else "any size"
    fit = "resized to a square of" if spec.fit == "square" else "scaled so that the longer side is at most"
    lines = [f"RGB in [0, 1], {fit} {size}", f"then (x - mean) / std with mean {spec.mean}, std {spec.std}"]
    if spec.fit == "pad":
        lines.append(f"then padded at the right and bottom with 0 to a multiple of {spec.multiple}")
    return lines


def _figures(run: Run) -> str:
    figures = {n: v for n, v in run.figures().items() if not n.startswith("loss")}
    if not figures:
        return ""
    rows = [f"| {name} | {number(value)} |" for name, value in figures.items()]
    return "\n".join([f"## Figures ({run.figures_of})", "", "| figure | value |", "| --- | ---: |", *rows])


def _data(run: Run) -> str:
    data: dict[str, Any] = run.dataset
    if not data:
        return ""
    images = ", ".join(f"{count:,} {split}" for split, count in (data.get("images") or {}).items())
    lines = [f"images: {images}", f"fingerprint of the files: `{data.get('digest')}`"]
    counts = data.get("objects_by_category") or {}
    lines += [f"{name}: {count:,} objects for training" for name, count in list(counts.items())[:40]]
    return _list("Data", lines)


def _health(run: Run) -> str:
    verdict = run.health.get("verdict", "not watched")
    causes = [incident.cause.line() for incident in run.incidents]
    return _list(
        "Training", [f"health: {verdict}", *causes, f"iterations: {run.history.length:,}", *_ended(run)]
    )


def _ended(run: Run) -> list[str]:
    return [f"ended: {run.exit}"] if run.exit else []
