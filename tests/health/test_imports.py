"""health/ stands alone: neither lightning nor torch nor anything else of ours comes with it."""

from __future__ import annotations

import subprocess
import sys


def test_the_engine_imports_nothing_heavy_and_nothing_of_ours() -> None:
    code = (
        "import sys; import maskwell.health.engine, maskwell.health.rules;"
        "print([m for m in sys.modules if m.split('.')[0] in {'torch', 'lightning', 'pandas'}"
        " or m.startswith('maskwell.') and not m.startswith(('maskwell.health', 'maskwell.errors'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
