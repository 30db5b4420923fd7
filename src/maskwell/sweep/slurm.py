"""A batch script for SLURM: ``python -m maskwell.sweep.slurm [--nodes 2 --gpus 4 ...] train KEY=VALUE ...``.

The job trains through ``srun``, one process per device. Before its time is over, or when it is preempted,
SLURM signals all of them: they save, end with code 75, and the script queues itself again; the same command
then goes on with the run. ``sweep`` instead of ``train`` makes an array of workers on one study.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from maskwell.errors import MISTAKE, TRY_AGAIN, UserError
from maskwell.runs import override

_TIME = re.compile(r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}")
"""SLURM's forms: minutes, minutes:seconds, hours:minutes:seconds, days-hours and so on."""


@dataclass(frozen=True)
class Job:
    """What a batch job asks for.

    ``verb`` train or sweep; ``folder`` of the run, or of logs; ``gpus`` and ``nodes``: 0 GPUs train on the
    CPU; ``warning``: seconds between the signal and the end, which have to suffice for a validation and a
    checkpoint; ``workers`` of a search, each with all devices of one node; ``more``: options of sbatch.
    """

    verb: str
    overrides: tuple[str, ...]
    folder: Path
    nodes: int = 1
    gpus: int = 1
    cpus: int = 4
    time: str = "24:00:00"
    partition: str | None = None
    warning: int = 300
    workers: int = 1
    python: str = "python"
    more: tuple[str, ...] = ()

    @property
    def tasks(self) -> int:
        """Processes on a node: one per GPU; the processes of a search start their own."""
        return max(1, self.gpus) if self.verb == "train" else 1


def script(job: Job) -> str:
    """The batch script.

    Raises:
        UserError: a value that SLURM would misread.
    """
    _check(job)
    options = {
        "job-name": f"maskwell-{job.verb}",
        "nodes": job.nodes,
        "ntasks-per-node": job.tasks,
        "cpus-per-task": job.cpus * (max(1, job.gpus) if job.verb == "sweep" else 1),
        "time": job.time,
        "signal": f"USR1@{job.warning}",
        "open-mode": "append",
        "output": f"{job.folder}/slurm-%j.log",
    }
    if job.gpus:
        options["gpus-per-node"] = job.gpus
    if job.partition:
        options["partition"] = job.partition
    if job.verb == "sweep":
        options |= {"array": f"1-{job.workers}", "output": f"{job.folder}/slurm-%A_%a.log"}
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items()]
    lines += ["#SBATCH --requeue", *(f"#SBATCH {option}" for option in job.more)]
    return _TEMPLATE.format(
        options="\n".join(lines), folder=shlex.quote(str(job.folder)), command=_command(job), again=TRY_AGAIN
    )


_TEMPLATE = """#!/bin/bash
{options}
# Made by python -m maskwell.sweep.slurm. SLURM opens the log before this runs: its folder must be there.

export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}"
srun --kill-on-bad-exit=0 \\
  {command}
code=$?
if [ "$code" -eq {again} ]; then  # stopped by a signal, and saved
  echo "queued again: the run in "{folder}" goes on"
  scontrol requeue "${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_}}${{SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}}"
fi
exit "$code"
"""


def _command(job: Job) -> str:
    if job.verb == "sweep":
        return shlex.join([job.python, "-m", "maskwell.sweep", *job.overrides])
    devices = [f"trainer.devices={job.tasks}", f"trainer.num_nodes={job.nodes}"]
    devices += [] if job.gpus else ["trainer.accelerator=cpu"]
    places = [override(key, job.folder) for key in ("paths.run_dir", "ckpt_path")]
    return shlex.join([job.python, "-m", "maskwell", "train", *job.overrides, *devices, *places])


def _check(job: Job) -> None:
    if job.verb not in ("train", "sweep"):
        raise UserError(f"'{job.verb}' is no work for a queue: name train or sweep.")
    if not _TIME.fullmatch(job.time):
        raise UserError(f"--time {job.time}: give SLURM's form, such as 24:00:00 or 2-12:00:00.")
    for name in ("nodes", "cpus", "workers", "warning"):
        if getattr(job, name) < 1:
            raise UserError(f"--{name} {getattr(job, name)}: give at least 1.")
    if job.gpus < 0:
        raise UserError(f"--gpus {job.gpus}: give 0 or more.")
    for key in ("paths.run_dir=", "ckpt_path=", "trainer.devices=", "trainer.num_nodes="):
        if job.verb == "train" and any(o.lstrip("+").startswith(key) for o in job.overrides):
            raise UserError(f"{key} is set by the script itself: use --folder, --gpus and --nodes.")
    if job.verb == "sweep" and job.nodes > 1:
        raise UserError("--nodes: a search has --workers, each on one node.")
    if job.verb == "sweep" and job.workers > 1 and not any("sweep.storage=" in o for o in job.overrides):
        raise UserError(
            "Workers on several machines need a storage that all of them reach: "
            "sweep.storage=journal:///FILE on a shared disk, or postgresql://..."
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: writes the script, and hands it to sbatch with ``--submit``."""
    parser = argparse.ArgumentParser(
        prog="python -m maskwell.sweep.slurm",
        description="Write a batch script that trains or searches on SLURM.",
    )
    parser.add_argument("verb", help="train or sweep")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py or maskwell.sweep")
    parser.add_argument("--nodes", type=int, default=1, help="machines (default 1)")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of a machine; 0: its CPU (default 1)")
    parser.add_argument("--cpus", type=int, default=4, help="cores per process (default 4)")
    parser.add_argument("--time", default="24:00:00", help="limit of one start (default 24:00:00)")
    parser.add_argument("--partition")
    parser.add_argument("--warning", type=int, default=300, help="seconds to save in (default 300)")
    parser.add_argument("--workers", type=int, default=1, help="of a search (default 1)")
    parser.add_argument("--python", default=sys.executable, help="interpreter there (default: this one)")
    parser.add_argument("--option", action="append", default=[], help="further option of sbatch, repeatable")
    parser.add_argument("--folder", type=Path, help="of the run (default runs/slurm/<date_time>)")
    parser.add_argument("--submit", action="store_true", help="hand the script to sbatch")
    args = parser.parse_intermixed_args(argv)
    folder = args.folder or Path("runs") / "slurm" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    job = Job(
        verb=args.verb,
        overrides=tuple(args.overrides),
        folder=folder.absolute(),
        nodes=args.nodes,
        gpus=args.gpus,
        cpus=args.cpus,
        time=args.time,
        partition=args.partition,
        warning=args.warning,
        workers=args.workers,
        python=args.python,
        more=tuple(args.option),
    )
    try:
        text = script(job)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.sh"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    print(f"written: {path}")
    if args.submit:
        return subprocess.run(["sbatch", str(path)], check=False, env=os.environ).returncode
    print(f"queue it with: sbatch {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
