"""The rules. One class, one idea; thresholds are dataclass fields, so that a configuration can set them."""

from __future__ import annotations

from maskwell.health.rules.bands import LossBand, MetricBand
from maskwell.health.rules.base import Clock, Rule, Symptom
from maskwell.health.rules.nonfinite import NonFinite
from maskwell.health.rules.normaliser import Normaliser
from maskwell.health.rules.objects import NoObjects
from maskwell.health.rules.parts import DeadPart
from maskwell.health.rules.trends import Constant, Rising

__all__ = [
    "Clock",
    "Constant",
    "DeadPart",
    "LossBand",
    "MetricBand",
    "NoObjects",
    "NonFinite",
    "Normaliser",
    "Rising",
    "Rule",
    "Symptom",
    "default_rules",
]


def default_rules() -> dict[str, Rule]:
    """The rules that hold for any training, under the names by which they are logged."""
    return {
        "nonfinite": NonFinite(),
        "normaliser": Normaliser(),
        "no_objects": NoObjects(),
        "dead_part": DeadPart(),
        "rising": Rising(),
        "constant": Constant(),
    }
