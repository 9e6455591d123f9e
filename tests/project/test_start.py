"""Starting is fast: the face and the command line load nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ["jax", "equinox", "optax", "scipy", "pandas", "pyarrow", "h5py", "sklearn", "matplotlib"]

REPORT = f"""
import atexit, sys
atexit.register(lambda: sys.stderr.write("loaded: " + " ".join(m for m in {HEAVY} if m in sys.modules) + "\\n"))
"""
IMPORT = REPORT + "import thalweg\nassert thalweg.__file__ is not None, 'src/thalweg has no __init__.py'\n"
HELP = REPORT + "import runpy\nsys.argv = ['thalweg', '--help']\nrunpy.run_module('thalweg.cli', run_name='__main__')\n"


def loaded(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


def test_the_probe_sees_what_is_loaded() -> None:
    assert loaded(REPORT + "import jax\n") == "loaded: jax"


def test_import_loads_nothing_heavy() -> None:
    assert loaded(IMPORT) == "loaded: "


def test_help_loads_nothing_heavy(repository: Path) -> None:
    if not (repository / "src" / "thalweg" / "cli.py").exists():
        pytest.skip("there is no command line yet")
    assert loaded(HELP) == "loaded: "
