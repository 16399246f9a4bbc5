"""botocore reads each model of a service once per process: half of what a client costs a test.

Imported for that alone. Moto throws sessions away, and what botocore has read is its session's.
"""

from __future__ import annotations

import functools
from typing import Any

from botocore.loaders import JSONFileLoader

_load = JSONFileLoader.load_file


@functools.cache
def _read(path: str) -> Any:
    return _load(JSONFileLoader(), path)


JSONFileLoader.load_file = lambda _self, file_path: _read(file_path)
