"""What every run leaves at its end, however it ends: its page, and its results in W&B."""

from __future__ import annotations

from collections.abc import Callable

from maskwell import runs, wandb_results
from maskwell.report import page
from maskwell.session import Session


def write(run: Session) -> None:
    """Write the page of a run that has logged something; a fault in it must not cost the run."""
    if not runs.is_first() or not (run.folder / "metrics.csv").is_file():
        return
    if run.cfg.report:
        again = f"the report is not complete: make report RUN={run.folder} tries again"
        _try(lambda: print(f"{'report:':<12}{page.write(run.folder)}"), again)
    _try(lambda: wandb_results.log(run.folder), "W&B did not get all results")


def _try(action: Callable[[], object], otherwise: str) -> None:
    try:
        action()
    except Exception as error:
        print(f"warning: {otherwise} ({type(error).__name__}: {error})")
