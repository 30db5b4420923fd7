"""The command line: hands ``sys.argv`` to Hydra and the composed configuration to :mod:`maskwell.app`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from maskwell import schema
from maskwell.errors import UserError


def conf_dir() -> Path:
    """The configuration folder: inside the installed package, else at the root of the checkout."""
    packed = Path(__file__).parent / "conf"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "conf"


def main(verb: str) -> None:
    """Compose ``<verb>.yaml`` with the command line's overrides and run the verb of that name.

    Mistakes of the user end in one sentence on stderr and exit code 2.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")    # lets exceptions through to us
    schema.register()

    def job(cfg: DictConfig) -> object:
        from maskwell import app

        return getattr(app, verb)(cfg)

    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)(job)()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
