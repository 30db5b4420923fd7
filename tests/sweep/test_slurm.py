"""The batch script: what it asks for, and that it queues itself again until its run is done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from maskwell.errors import UserError
from maskwell.sweep import slurm
from maskwell.sweep.slurm import Job

JOB = Job("train", ("model=detr", "data.root=/a b"), Path("/runs/one"), nodes=2, gpus=4)


def options(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH --")]
    return dict(line.partition("=")[::2] for line in lines)


def test_one_process_per_gpu_of_every_node() -> None:
    text = slurm.script(replace(JOB, partition="long", more=("--account=me",)))
    asked = options(text)
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"]) == ("2", "4", "4")
    assert asked["signal"] == "USR1@300" and "requeue" in asked
    assert asked["partition"] == "long" and asked["account"] == "me"
    assert "train model=detr 'data.root=/a b' trainer.devices=4 trainer.num_nodes=2" in text
    assert "paths.run_dir=/runs/one ckpt_path=/runs/one" in text


def test_a_search_is_an_array_of_workers() -> None:
    job = Job("sweep", ("sweep=detr", "sweep.storage=postgresql://db"), Path("/s"), gpus=2, workers=8)
    asked = options(slurm.script(job))
    assert (asked["array"], asked["ntasks-per-node"], asked["cpus-per-task"]) == ("1-8", "1", "8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verb": "dance"}, "train or sweep"),
        ({"time": "soon"}, "SLURM's form"),
        ({"nodes": 0}, "at least 1"),
        ({"overrides": ("trainer.devices=3",)}, "set by the script itself"),
        ({"verb": "sweep", "nodes": 1, "workers": 2}, "storage that all of them reach"),
        ({"verb": "sweep"}, "each on one node"),
    ],
)
def test_mistakes(change: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        slurm.script(replace(JOB, **change))  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_queues_itself_again_until_the_run_is_done(tmp_path: Path) -> None:
    """With an srun that runs its command, and a program that is stopped twice."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    programs = {
        "srun": 'shift; exec "$@"',
        "scontrol": f'echo "$@" >> {tmp_path}/requeued',
        "python": f'echo "$@" >> {tmp_path}/calls; [ $(wc -l < {tmp_path}/calls) -gt 2 ] || exit 75',
    }
    for name, body in programs.items():
        (bin_dir / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin_dir / name).chmod(0o755)
    folder = tmp_path / "a run"
    made = subprocess.run(
        [
            *(sys.executable, "-m", "maskwell.sweep.slurm", "--gpus", "0", "--python", "python"),
            *("--folder", str(folder), "train", "model=points"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    assert made.returncode == 0 and f"sbatch {folder / 'job.sh'}" in made.stdout, made.stderr
    environment = {"PATH": f"{bin_dir}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    codes = [
        subprocess.run(["bash", str(folder / "job.sh")], env=environment, check=False).returncode
        for _ in range(3)
    ]
    assert codes == [75, 75, 0]
    assert (tmp_path / "requeued").read_text().splitlines() == ["requeue 17"] * 2
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(set(calls)) == 1  # the same command starts the run and goes on with it
    assert f"paths.run_dir='{folder}' ckpt_path='{folder}'" in calls[0] and "accelerator=cpu" in calls[0]
