"""What every run leaves at its end, however it ends: its page, and its results in W&B."""

from __future__ import annotations

from maskwell import runs, wandb_results
from maskwell.report import page
from maskwell.session import Session


def write(run: Session) -> None:
    """Write the page of a run that has logged something; a fault in it must not cost the run."""
    if not run.cfg.report or not runs.is_first() or not (run.folder / "metrics.csv").is_file():
        return
    try:
        print(f"{'report:':<12}{page.write(run.folder)}")
        wandb_results.log(run.folder)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        print(f"warning: the report is not complete ({told}); make report RUN={run.folder} tries again")
