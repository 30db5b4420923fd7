"""Train vision models from few labels, and be told when training goes wrong.

``maskwell.load(ckpt).predict(image, prompt="nucleus")`` is the Python interface.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskwell.api import load as load


def __getattr__(name: str) -> object:
    """``load`` on first use: importing the package alone stays cheap."""
    if name == "load":
        from maskwell.api import load

        return load
    raise AttributeError(f"module 'maskwell' has no attribute '{name}'")
