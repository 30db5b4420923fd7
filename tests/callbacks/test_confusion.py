from __future__ import annotations

import json
from pathlib import Path

import torch

from maskwell.callbacks.confusion import Confusion
from tests.callbacks.modules import Automatic, loader, trainer


class Semantic(Automatic):
    confusion_names = ("soil", "crop")
    semantic = True

    @property
    def confusion(self) -> torch.Tensor:
        return torch.tensor([[self.iteration, 0], [1, 3]])


def test_each_validation_leaves_its_matrix(tmp_path: Path) -> None:
    trainer(tmp_path, Confusion(), max_epochs=2).fit(Semantic(), loader(), loader())
    names = sorted(path.name for path in (tmp_path / "confusion").iterdir())
    assert names == ["iter_000004.json", "iter_000004.png", "iter_000008.json", "iter_000008.png"]
    content = json.loads((tmp_path / "confusion" / "iter_000008.json").read_text())
    assert content["classes"] == ["soil", "crop"] and content["pixels"] == [[8, 0], [1, 3]]


def test_matrices_of_objects_say_so(tmp_path: Path) -> None:
    class Objects(Semantic):
        confusion_names = ("cell", "background")
        semantic = False

    trainer(tmp_path, Confusion(), max_epochs=1).fit(Objects(), loader(), loader())
    content = json.loads((tmp_path / "confusion" / "iter_000004.json").read_text())
    assert content["classes"] == ["cell", "background"] and content["objects"] == [[4, 0], [1, 3]]


def test_other_families_are_left_alone(tmp_path: Path) -> None:
    trainer(tmp_path, Confusion(), max_epochs=1).fit(Automatic(), loader(), loader())
    assert not (tmp_path / "confusion").exists()
