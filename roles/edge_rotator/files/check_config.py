#!/usr/bin/env python3
"""Read a configuration from stdin as the rotator would; say what it would refuse, and end with 1."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from edge_rotator import config
from edge_rotator.errors import RotatorError

if __name__ == "__main__":
    try:
        config.check("config.toml", tomllib.loads(sys.stdin.read()))
    except (RotatorError, tomllib.TOMLDecodeError) as error:
        raise SystemExit(getattr(error, "detail", "") or str(error)) from None
