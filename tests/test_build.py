"""The build layer: trusted targets only, signatures, devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from maskwell import build
from maskwell.data.prompts import PromptPolicy
from maskwell.errors import UserError
from support import TINY, composed


def node(**content: Any) -> Any:
    return OmegaConf.create(content)


@pytest.mark.parametrize(
    "target",
    ["os.system", "subprocess.run", "builtins.eval", "torch.load", "lightning_x.Trainer", "maskwellx.a"],
)
def test_untrusted_targets_are_refused(target: str) -> None:
    with pytest.raises(UserError, match="outside the packages"):
        build._build(node(_target_=target), "callbacks.mine")


@pytest.mark.parametrize(
    "target",
    [
        "maskwell.callbacks.run_record.subprocess.run",  # what a trusted module has imported
        "maskwell.models.sam_lora.module.torch.load",
        "maskwell.callbacks.adapter_checkpoint.shutil.rmtree",
        "maskwell.data.kinds.UserError",
        "maskwell.callbacks.run_record.git_state",  # a function: runs git in a folder
        "maskwell.models.sam_lora.base_model.load_base",
        "maskwell.callbacks.run_record.json.dumps.__globals__",
        "lightning.pytorch.cli.LightningCLI",
        "lightning.pytorch.LightningModule.load_from_checkpoint",
        "lightning.pytorch.core.saving.torch.hub.load",
        "torch.nn.modules.module.functools.partial",
        "torch.nn.init.normal_",
        "torch.optim.swa_utils.torch.load",
        "torchmetrics.functional.accuracy",
    ],
)
def test_trusted_packages_are_no_way_round(target: str) -> None:
    with pytest.raises(UserError, match=r"no kind of thing|outside the packages|cannot be imported"):
        build._build(node(_target_=target), "callbacks.mine")


@pytest.mark.parametrize("target", [3, ["os.system"], {"a": 1}, ""])
def test_a_target_is_a_name(target: Any) -> None:
    with pytest.raises(UserError, match=r"_target_"):
        build.check_node(node(_target_=target, command="true"), "callbacks.mine")


@pytest.mark.parametrize(
    "target",
    [
        "torch.optim.AdamW",
        "torch.nn.GroupNorm",
        "torchmetrics.MeanMetric",
        "lightning.pytorch.callbacks.Timer",
        "lightning.pytorch.loggers.CSVLogger",
    ],
)
def test_parts_of_the_libraries_may_be_built(target: str) -> None:
    assert build.parameters(target, "x") is None or build.parameters(target, "x")


def test_untrusted_target_deep_inside_is_refused() -> None:
    inner = {"_target_": "os.system", "command": "true"}
    with pytest.raises(UserError, match=r"trainer\.callbacks\[0\]\._target_ names 'os.system'"):
        build.check_node(node(_target_="lightning.Trainer", callbacks=[inner]), "trainer")


def test_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"data\.augment\.hflp.*Did you mean 'hflip'"):
        build._build(node(_target_="maskwell.data.transforms.Augmentation", hflp=0.5), "data.augment")


def test_missing_target_is_one_sentence() -> None:
    with pytest.raises(
        UserError, match=r"optim\._target_: 'maskwell\.models\.nothing\.Here' cannot be imported"
    ):
        build._build(node(_target_="maskwell.models.nothing.Here"), "optim")


def test_errors_of_constructors() -> None:
    callback = {"_target_": "maskwell.callbacks.early_stopping.EarlyStopping"}
    with pytest.raises(UserError, match="patience"):
        build._build(node(**callback, patience=0), "callbacks.early_stopping")
    with pytest.raises(UserError, match=r"callbacks\.lr: .*argument"):
        build._build(node(_target_="torch.optim.SGD"), "callbacks.lr")


def test_nested_nodes_are_built() -> None:
    prompts = {"_target_": "maskwell.data.prompts.PromptPolicy", "num_negatives": 3}
    scenes = {"num_val": 1, "num_test": 1, "size": 32, "min_objects": 1, "max_objects": 2, "epoch_size": 1}
    built = build._build(node(_target_="maskwell.data.kinds.scenes", prompts=prompts, **scenes), "data")
    assert isinstance(built.prompts, PromptPolicy) and built.prompts.num_negatives == 3


def test_entries_set_to_null_are_left_out(small_family: None) -> None:
    cfg, _ = composed(*TINY, "callbacks.early_stopping=null", "paths.run_dir=x")
    names = [type(callback).__name__ for callback in build.callbacks(cfg)]
    assert "GradClip" in names and "EarlyStopping" not in names


@pytest.mark.parametrize(
    ("cores", "gpus", "overrides", "refused"),
    [
        (2, 0, ["trainer.devices=3"], "trainer.devices=3, but this machine has 2 CPU cores"),
        (2, 0, ["trainer.devices='3'"], "has 2 CPU cores"),
        (2, 1, ["trainer.devices=2"], "has 1 GPUs"),
        (2, 1, ["trainer.devices=[0,1]"], "has 1 GPUs"),
        (2, 1, ["trainer=cpu", "trainer.devices=3"], "has 2 CPU cores"),
        (2, 0, ["trainer=gpu"], "no GPU here"),
    ],
)
def test_more_devices_than_there_are(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int, overrides: list[str], refused: str
) -> None:
    monkeypatch.setattr(build, "cpu_cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    cfg, _ = composed(*overrides)
    with pytest.raises(UserError, match=refused.replace("[", r"\[")):
        build.trainer(cfg)


@pytest.mark.parametrize("precision", ["bf16-true", "64"])
def test_weights_in_other_precisions_are_refused(precision: str) -> None:
    """Lightning would convert the batches, and cannot."""
    cfg, _ = composed("trainer=cpu", f"trainer.precision={precision}")
    with pytest.raises(UserError, match=rf"trainer\.precision={precision}: .* bf16-mixed"):
        build.trainer(cfg, logger=False)


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert build._precision("cuda") == "bf16-mixed"
    assert build._precision("cpu") == "32-true"
