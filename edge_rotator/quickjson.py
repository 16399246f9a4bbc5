"""JSON at the price of a tick: the library's own module costs as much to import as starting Python.

Reading is CPython's C scanner, the one below `json.loads`; writing is ours. Both know nothing of
NaN and infinity, which are not JSON.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BLANK = " \t\n\r"


def _refuse(name: str) -> float:
    raise ValueError(name)


class _Context:
    """What the scanner asks of its owner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse)


def loads(data: bytes) -> Any:
    """Read one UTF-8 text. Raises ValueError, or RecursionError if it is nested too deep."""
    text = data.decode().strip(_BLANK)
    try:
        value, end = make_scanner(_Context)(text, 0)  # type: ignore[arg-type]
    except StopIteration:
        raise ValueError("not JSON") from None
    if end != len(text):
        raise ValueError("more than one value")
    return value


def dumps(value: Any) -> str:
    """Render texts, finite numbers, booleans, None, and lists and dictionaries of them."""
    if isinstance(value, str):
        return str(encode_basestring_ascii(value))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        if value - value != 0:
            raise ValueError("not a finite number")
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{dumps(str(k))}: {dumps(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(map(dumps, value)) + "]"
