"""What policies of IAM and IoT say about a request: the part of their language that a fleet needs.

What is not understood is an error, never a guess: no test may pass because a Deny was overlooked.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

Context = Mapping[str, str | None]
_KNOWN = {"Sid", "Effect", "Action", "Resource", "Condition"}
# A variable, a wildcard, or text as it stands.
_PART = re.compile(r"\$\{([^}]*)\}|([*?])|([^*?$]+|\$)")


class UnknownPolicyError(Exception):
    """A policy uses what the lab does not know."""


def decide(documents: Iterable[Any], action: str, resource: str, context: Context) -> bool | None:
    """Return False where a statement denies, True where one allows and none denies, None where none applies.

    `context` holds each condition key and variable that a policy may name; None is what this request lacks.
    """
    effects = {
        statement["Effect"]
        for document in documents
        for statement in _list(document["Statement"])
        if _applies(statement, action, resource, context)
    }
    return False if "Deny" in effects else "Allow" in effects or None


def _applies(statement: dict[str, Any], action: str, resource: str, context: Context) -> bool:
    if unknown := set(statement) - _KNOWN:
        raise UnknownPolicyError(f"The lab knows no {', '.join(sorted(unknown))} in a statement")
    conditions = [
        _holds(operator, key, _list(wanted), context)
        for operator, keys in statement.get("Condition", {}).items()
        for key, wanted in keys.items()
    ]
    return (
        all(conditions)
        and any(like(action.lower(), each.lower(), {}) for each in _list(statement["Action"]))
        and any(like(resource, each, context) for each in _list(statement["Resource"]))
    )


def _holds(operator: str, key: str, wanted: list[str], context: Context) -> bool:
    if key not in context:
        raise UnknownPolicyError(f"The lab knows no condition key {key}")
    value = context[key]
    if operator == "StringLike":
        return value is not None and any(like(value, each, context) for each in wanted)
    if operator == "StringEquals":
        return value is not None and value in wanted
    if operator == "DateLessThan":
        return value is not None and any(_date(value) < _date(each) for each in wanted)
    raise UnknownPolicyError(f"The lab knows no condition operator {operator}")


def like(value: str, pattern: str, context: Context) -> bool:
    """Compare as StringLike does; a variable without a value matches nothing."""
    expression = ""
    for variable, wildcard, text in _PART.findall(pattern):
        if variable:
            if variable not in context:
                raise UnknownPolicyError(f"The lab knows no variable {variable}")
            if (known := context[variable]) is None:
                return False
            expression += re.escape(known)
        else:
            expression += {"*": ".*", "?": "."}.get(wildcard, re.escape(text))
    return re.fullmatch(expression, value, re.DOTALL) is not None


def _date(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
