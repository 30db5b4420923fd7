"""Does the README work? Every command of it, in order, in a clean clone with an environment of its own.

The rules in readme_commands.txt say what is run instead of a command that has
placeholders or trains for long, and which are not run at all. TORCH_INDEX goes to `make` as a user's would.
`--here` uses the running environment and leaves out what `make` does; `--quick` runs the help pages so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from benchmarks import harness, readme_commands
from benchmarks.readme_commands import Step
from maskwell.data.synthetic import write_cells

LIMIT = 900.0
"""Seconds that a command may take."""

KILLED = 124
"""Exit code that is written down for a command which took longer, as `timeout` has it."""

QUICK = ("python train.py --help", "maskwell slurm")
"""Beginnings of what ``--quick`` runs: commands that load no model."""


def samples(folder: Path) -> None:
    """What a user brings: ``cells`` in COCO form, ``voc`` with boxes, and a folder of plain ``images``."""
    write_cells(folder / "cells", seed=0, counts=(12, 4, 4), size=128)
    (folder / "images").mkdir()
    (folder / "voc" / "JPEGImages").mkdir(parents=True)
    (folder / "voc" / "Annotations").mkdir()
    content = json.loads((folder / "cells" / "val.json").read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    for entry in content["images"]:
        stem = Path(entry["file_name"]).stem
        with Image.open(folder / "cells" / "images" / entry["file_name"]) as image:
            image.save(folder / "images" / f"{stem}.png")
            image.convert("RGB").save(folder / "voc" / "JPEGImages" / f"{stem}.jpg")
        mine = [one for one in content["annotations"] if one["image_id"] == entry["id"]]
        objects = "".join(_voc(names[one["category_id"]], one["bbox"]) for one in mine)
        size = f"<size><width>{entry['width']}</width><height>{entry['height']}</height></size>"
        text = f"<annotation><filename>{stem}.jpg</filename>{size}{objects}</annotation>"
        (folder / "voc" / "Annotations" / f"{stem}.xml").write_text(text)


def _voc(name: str, box: list[float]) -> str:
    x, y, width, height = box
    sides = {"xmin": x + 1, "ymin": y + 1, "xmax": x + width, "ymax": y + height}
    inside = "".join(f"<{side}>{value}</{side}>" for side, value in sides.items())
    return f"<object><name>{name}</name><bndbox>{inside}</bndbox></object>"


def run(step: Step, folder: Path, environment: Mapping[str, str]) -> tuple[float, int]:
    """Seconds and exit code of what is run of a step; its last lines are printed where it fails."""
    assert step.run is not None
    print(f"$ {step.run}", flush=True)
    log = folder.parent / "output.log"
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", step.run],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code = _served(process, step.address) if step.address else _ended(process)
    seconds = time.monotonic() - started
    print(f"  {seconds:.1f} s, exit code {code}", flush=True)
    if code:
        print("\n".join(log.read_text(errors="replace").splitlines()[-20:]), flush=True)
    return seconds, code


def _ended(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        _stop(process)
        return KILLED


def _served(process: subprocess.Popen[bytes], address: str) -> int:
    """0 once the address answers; the process is ended then."""
    code, until = KILLED, time.monotonic() + LIMIT
    while code == KILLED and time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                code = 0 if answer.status == 200 else KILLED
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    early = process.poll()
    if early is None:
        _stop(process)
    return code if early is None or not code else (early or KILLED)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it has started."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def environment(clone: Path, here: bool) -> dict[str, str]:
    """That of a shell in which the clone's .venv is active (``here``: the running one), without our data."""
    kept = {name: value for name, value in os.environ.items() if name not in ("MASKWELL_DATA", "PYTHONPATH")}
    binaries = Path(sys.executable).parent if here else clone / ".venv" / "bin"
    kept |= {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "WANDB_MODE": "offline"}
    kept["MASKWELL_CACHE"] = str(clone.parent / "cache")
    return kept | ({"PYTHONPATH": str(clone / "src")} if here else {})


def chosen(steps: list[Step], args: argparse.Namespace) -> list[Step]:
    """The steps that this call is about."""
    if args.quick:
        return [step for step in steps if step.command.startswith(QUICK)]
    if args.here:
        steps = [step for step in steps if step.run is None or not step.run.startswith("make ")]
    return [step for step in steps if not args.only or step.command.startswith(tuple(args.only))]


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--here", action="store_true", help="in the running environment, without make")
    parser.add_argument("--only", action="append", metavar="BEGINNING", help="commands that begin so")
    args = parser.parse_args()
    args.here = args.here or args.quick
    started = time.monotonic()
    steps = chosen(readme_commands.steps(harness.ROOT / "README.md"), args)
    seconds: dict[str, float] = {}
    codes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(harness.ROOT), str(clone)], check=True)
        if not args.quick:
            samples(clone / "sample")
        around = environment(clone, args.here)
        for step in steps:
            if step.run is not None:
                seconds[step.command], codes[step.command] = run(step, clone, around)
    harness.publish(
        args,
        "readme",
        {
            "commands": len(steps),
            "run": len(codes),
            "failed": sum(code != 0 for code in codes.values()),
            "not_run": len(steps) - len(codes),
            "seconds": seconds,
            "exit_codes": codes,
        },
        command=harness.command_line("benchmarks.readme"),
        seeds=[0],
        minutes=(time.monotonic() - started) / 60,
        notes=(
            "Every command of the README's code blocks in order, from a clean clone of the commit; the first "
            "`make` sets up the environment. Trainings take a few steps, placeholders were replaced: see "
            "details. A command that serves a page has passed once the page answers."
        ),
        details={
            "run_instead": {s.command: s.run for s in steps if s.run not in (None, s.command)},
            "not_run": {s.command: s.skipped for s in steps if s.run is None},
        },
    )
    if any(codes.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
