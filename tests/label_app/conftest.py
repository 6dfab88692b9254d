"""Only ``scripts/setup/label_tests.sh`` runs what is here: MONAI Label lives in an environment of its own."""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for phantoms
if importlib.util.find_spec("monailabel") is None:
    collect_ignore_glob = ["test_*.py"]
