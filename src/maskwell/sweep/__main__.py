"""Searches: ``python -m maskwell.sweep [sweep=NAME] KEY=VALUE KEY=SEARCHED ...``.

An Optuna study over the keys of ``train.py``. Each trial is a training in a process of its own, so that a
crash ends one trial and several devices train with the same values. The study lies in a SQLite file
beside the trials' run folders, or in any storage that Optuna knows; the same command goes on with it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from maskwell.errors import CTRL_C, MISTAKE, TRY_AGAIN, UserError
from maskwell.sweep import search_space, study
from maskwell.sweep.search import PROGRAM, Search, SweepConfig, names, read

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


def show(found: Study, search: Search) -> None:
    """The trials, the best of them and the command that trains it; the same in ``study.json``."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{search.study}: {search.metric}", title_justify="left")
    for column in ("trial", "state", search.metric, *search.space, "note"):
        table.add_column(column, justify="left" if column == "note" else "right", overflow="fold")
    ended = [trial for trial in found.trials if "exit" in trial.user_attrs]
    for trial in ended:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        chosen = [_short(trial.params.get(key)) for key in search.space]
        note = "" if trial.value is not None else trial.user_attrs.get("note", "")
        table.add_row(str(trial.number), trial.state.name.lower(), value, *chosen, note)
    Console().print(table)
    done = [trial for trial in ended if trial.state.name == "COMPLETE"]
    if done:
        best = found.best_trial
        chosen = [*search.fixed, *(f"{key}={best.params[key]}" for key in search.space)]
        print(f"best: trial {best.number}, {search.metric} {best.value:.4f}")
        print(f"its run folder: {search.folder / best.user_attrs['folder']}")
        print(f"train it anew: python train.py {shlex.join(chosen)}")
    content = {
        "format": 1,
        "study": search.study,
        "metric": search.metric,
        "mode": search.mode,
        "fixed": list(search.fixed),
        "best": found.best_trial.number if done else None,
        "trials": [_record(trial) for trial in ended],
    }
    path = search.folder / "study.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"all trials: {path}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _record(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value if trial.state.name == "COMPLETE" else None,
        "params": trial.params,
        "folder": trial.user_attrs.get("folder"),
        "exit": trial.user_attrs["exit"],
        "note": trial.user_attrs.get("note"),
    }


def main(argv: Sequence[str] | None = None, program: Sequence[str] = PROGRAM) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m maskwell.sweep",
        description="Search the keys of train.py with Optuna; the same command goes on with a search.",
        epilog=f"A searched key is {search_space.FORMS}. Keys of the search: "
        f"{', '.join(f'sweep.{name}' for name in SweepConfig.__dataclass_fields__)}; "
        f"searches: sweep={'|'.join(names())}.",
    )
    parser.add_argument("--config-dir", "-cd", metavar="DIR", help="further groups, as for train.py")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys of train.py, some searched")
    args = parser.parse_intermixed_args(argv)
    flags = ["--config-dir", args.config_dir] if args.config_dir else []
    stopped: list[int] = []

    def stop(number: int, _: Any) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    told = [
        getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)
    ]  # not on Windows
    before = {number: signal.signal(number, stop) for number in told}
    try:
        search = read(args.overrides, flags, program)
        show(study.run(search), search)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("stopped; the same command goes on with the search")
        return TRY_AGAIN if stopped else CTRL_C
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


if __name__ == "__main__":
    sys.exit(main())
