"""FSDP as the configuration can name it: its policy is a function, not a value."""

from __future__ import annotations

from functools import partial

from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy


def fsdp(min_parameters: int = 1_000_000) -> FSDPStrategy:
    """FSDP that shares out every layer of at least so many parameters, and writes whole checkpoints."""
    policy = partial(size_based_auto_wrap_policy, min_num_params=min_parameters)
    return FSDPStrategy(auto_wrap_policy=policy, state_dict_type="full")
