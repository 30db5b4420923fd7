"""What a trial's program looks like to a search: overrides in, metrics.csv and health.json out."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

given = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
folder = Path(given.get("paths.run_dir") or given["ckpt_path"])
if "ckpt_path" in given:
    (folder / "went_on").touch()
    given |= dict(line.split("=", 1) for line in (folder / "given").read_text().splitlines())
folder.mkdir(parents=True, exist_ok=True)
(folder / "given").write_text("".join(f"{k}={v}\n" for k, v in given.items() if k != "ckpt_path"))
lr, does = float(given["optim.lr"]), given.get("+does", "well")


def log(*values: float) -> None:
    rows = [f"{step},{value}" for step, value in enumerate(values)]
    (folder / "metrics.csv").write_text("\n".join(["step,val/error", *rows]) + "\n")


def save() -> None:
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").touch()


def saved(*_: object) -> None:
    save()
    sys.exit(75)


signal.signal(signal.SIGTERM, saved)
if does == "fails" or (does == "fails_above_1" and lr > 1):
    print("loaded", flush=True)
    print("error: no such rate", file=sys.stderr)
    sys.exit(2)
if does == "stops_the_search" and not (folder / "went_on").exists():
    log(lr + 3)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
if does == "kills_the_search" and not (folder / "went_on").exists():
    save()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
if does == "breaks":
    (folder / "health.json").write_text(json.dumps({"verdict": "broken"}))
    time.sleep(60)
if does == "waits_for_another":
    for _ in range(6000):
        if len(list(folder.parent.glob("trial_*/given"))) > 1:
            break
        time.sleep(0.01)
    else:
        sys.exit("error: no other search came")
if does == "slow_when_bad" and lr > 1:
    log(lr + 2, lr + 1, lr)
    time.sleep(60)
log(lr + 2, lr, lr + 1)
