"""A merged model is a base that answers like the checkpoint it came from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maskwell import restore
from maskwell.errors import UserError
from maskwell.export.merged import export
from maskwell.models.sam_lora.base_model import load_base
from maskwell.models.sam_lora.net import PromptedSam
from trained import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-4), (True, 5e-2)])
def test_the_merged_base_answers_like_the_checkpoint(
    run: Path, tmp_path: Path, half: bool, tolerance: float
) -> None:
    export(str(run), tmp_path / "merged", half=half)
    task = restore.restore(run / "checkpoints" / "best.ckpt").task
    merged = PromptedSam(*load_base(str(tmp_path / "merged")))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    asked = (images, torch.tensor([0, 0]), ["cell nucleus", "debris"])
    with torch.no_grad():
        expected, found = task.eval().net(*asked), merged.eval()(*asked)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=tolerance, rtol=0)
    torch.testing.assert_close(found.scores(), expected.scores(), atol=tolerance, rtol=0)


def test_a_folder_with_something_in_it_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        export(str(run), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
