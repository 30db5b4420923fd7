"""The command line: hands ``sys.argv`` to Hydra and the composed configuration to :mod:`maskwell.app`."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import NoReturn

import hydra
from omegaconf import DictConfig

from maskwell import compose, runs, schema, stored_groups
from maskwell.errors import UserError, nearest

VERBS = ("train", "evaluate", "predict", "diagnose")
TOOLS = {
    "report": "maskwell.report",
    "export": "maskwell.export",
    "check": "maskwell.data.checks",
    "convert": "maskwell.data.convert",
    "prelabel": "maskwell.data.prelabels",
    "select": "maskwell.data.select",
    "demo": "maskwell.demo",
    "sweep": "maskwell.sweep",
    "slurm": "maskwell.sweep.slurm",
}
"""Further verbs of the console command -> the module that ``python -m`` runs for them."""


def main(verb: str) -> None:
    """Compose ``<verb>.yaml`` with the command line's overrides and run the verb of that name.

    Mistakes of the user end in one sentence on stderr and exit code 2.
    """
    if (joined := runs.joined()) is not None:  # a rank that the first one started
        _join(joined)
        return
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets exceptions through to us
    schema.register()
    if verb == "diagnose":
        sys.argv[1:] = [_as_input(argument) for argument in sys.argv[1:]]
    try:
        sys.argv[1:] = stored_groups.added(verb, sys.argv[1:], _search_of(sys.argv))
    except UserError as error:
        _refuse(error)
    raised: list[BaseException] = []

    def job(cfg: DictConfig) -> object:
        """Keeps what is raised: Hydra would print its own text around it."""
        if raised:  # the rest of a multirun
            return None
        try:
            origin = compose.check_job(cfg, verb)
            from maskwell import app

            return getattr(app, verb)(cfg, origin)
        except BaseException as error:
            raised.append(error)
            return None

    try:
        hydra.main(version_base="1.3", config_path=str(compose.conf_dir()), config_name=verb)(job)()
    except BrokenPipeError:  # --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        _refuse(compose.explain(error, verb, sys.argv[1:], _search_of(sys.argv)))
    if raised:
        _end(raised[0])


def _end(error: BaseException) -> NoReturn:
    """Leave with one sentence for a mistake and for Ctrl-C; a fault of the program keeps its traceback."""
    if isinstance(error, UserError):
        _refuse(error)
    if isinstance(error, KeyboardInterrupt):
        print("stopped before the training began", file=sys.stderr)
        sys.exit(130)
    raise error


def _join(folder: Path) -> None:
    """Take part, as a rank that the first one started, in the training of the run in ``folder``."""
    from maskwell import app

    try:
        app.train(runs.load(folder)[0])
    except UserError as error:
        _refuse(error)


def console() -> None:
    """``maskwell VERB key=value ...`` as ``python VERB.py``, the tools as ``python -m`` of their module."""
    if runs.joined() is not None:
        main("train")
        return
    verb = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if verb in TOOLS:
        runpy.run_module(TOOLS[verb], run_name="__main__", alter_sys=True)
        return
    if verb not in VERBS:
        _refuse(
            UserError(
                f"Name what to do: maskwell {'|'.join(VERBS)} key=value ..., or maskwell {'|'.join(TOOLS)} "
                f"ARGUMENTS (--help after it).{nearest(verb, (*VERBS, *TOOLS))}"
            )
        )
    main(verb)


def _as_input(argument: str) -> str:
    """A bare path as ``input=PATH``, quoted for Hydra where it has to be."""
    if "=" in argument or argument.startswith(("-", "+", "~")):
        return argument
    return f"input={argument}" if argument.isidentifier() else "input='" + argument.replace("'", "\\'") + "'"


def _search_of(argv: list[str]) -> list[str]:
    """The folder given with ``--config-dir``, as an address for Hydra's search path."""
    for flag in ("--config-dir", "-cd"):
        if flag in argv[:-1]:
            return [f"file://{Path(argv[argv.index(flag) + 1]).resolve()}"]
    return []


def _refuse(error: UserError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
