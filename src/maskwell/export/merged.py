"""A whole model in Hub layout out of a sam_lora checkpoint, adapters merged into the weights.

python -m maskwell.export.merged runs/sam_lora/2026-11-21_10-00-00 my_model/ --half
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from maskwell import restore
from maskwell.errors import UserError
from maskwell.models.sam_lora.module import SamLora


def export(ckpt: str, folder: Path, *, half: bool = False, runs: Path = Path("runs")) -> None:
    """Write config, safetensors and tokenizer; the result serves as ``model.base=<folder>``.

    Args:
        ckpt: a run folder, a checkpoint file, or ``last``.
        folder: new or empty.
        half: store float16 (half the size; loaded as float32 again).
        runs: where ``last`` looks.

    Raises:
        UserError: no such checkpoint, not of sam_lora, or the folder holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; give a new folder for the merged model.")
    path = restore.find(ckpt, runs, SamLora.family)
    task = restore.restore(path).task
    if not isinstance(task, SamLora):
        raise UserError(f"{path} is a checkpoint of {task.family}; only sam_lora merges into a base.")
    task.save_merged(folder, dtype=torch.float16 if half else torch.float32)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ckpt", help="a run folder, a checkpoint file, or 'last'")
    parser.add_argument("folder", type=Path, help="where the model goes; new or empty")
    parser.add_argument("--half", action="store_true", help="store float16")
    args = parser.parse_args()
    try:
        export(args.ckpt, args.folder, half=args.half)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"model: {args.folder}")


if __name__ == "__main__":
    main()
