"""Make the lab's two packages importable: the control node's and the cloud machine's."""

import sys
from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "molecule" / "shared"
sys.path[:0] = [str(SHARED), str(SHARED / "cloud")]
