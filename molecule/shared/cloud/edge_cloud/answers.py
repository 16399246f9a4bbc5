"""The credential provider's answers, good and bad, and what faults make of them."""

import email.utils
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from edge_cloud.ledger import Fault, Key


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; `cut` bytes of the body are announced but never sent."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    error: str | None = None
    cut: int = 0
    date_offset_s: float = 0.0


# AWS's published error table: name of the fault -> status, error type, message.
ERRORS = {
    "thing-not-attached": (403, "AccessDeniedException", "Invalid thing name passed"),
    "policy-denied": (403, "AccessDeniedException", "Access Denied"),
    "certificate-invalid": (
        403,
        "AccessDeniedException",
        "Certificate is invalid on this endpoint",
    ),
    "alias-missing": (404, "ResourceNotFoundException", "Role alias does not exist"),
    "role-unassumable": (
        400,
        "InvalidRequestException",
        "Unable to assume the role, or the role to assume does not exist",
    ),
    "duration-exceeds": (
        400,
        "InvalidRequestException",
        "The requested CredentialDurationSeconds exceeds the MaxSessionDuration set for the role",
    ),
}

# Faults that need the connection rather than the answer.
TLS_FAULTS = {"untrusted-ca": "rogue", "wrong-host": "wrong-host"}
RESET = "reset"
DELAY = "delay"


def refusal(name: str) -> Answer:
    """Return a row of the error table."""
    status, kind, message = ERRORS[name]
    return _error(status, kind, message, ())


def _error(status: int, kind: str, message: str, headers: tuple[tuple[str, str], ...]) -> Answer:
    return Answer(
        status=status,
        body=json.dumps({"message": message}).encode(),
        headers=(("x-amzn-ErrorType", kind), *headers),
        error=message,
    )


def credentials(key: Key) -> Answer:
    """Return the answer that hands out a key."""
    assert key.expires_s is not None
    content = {
        "accessKeyId": key.access_key,
        "secretAccessKey": key.secret,
        "sessionToken": key.token,
        "expiration": stamp(key.expires_s),
    }
    return Answer(200, json.dumps({"credentials": content}).encode())


def stamp(at_s: float) -> str:
    """Format a time as the provider does, in whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))


def http_date(at_s: float) -> str:
    """Format a time for the Date header."""
    return email.utils.formatdate(at_s, usegmt=True)


def replaces_answer(fault: Fault) -> bool:
    """Tell whether a fault comes instead of issuing, rather than spoiling what is issued."""
    return fault.name in ERRORS or fault.name == "status"


def replacement(fault: Fault) -> Answer:
    """Return the answer given instead of credentials."""
    if fault.name in ERRORS:
        return refusal(fault.name)
    options = fault.options
    headers = tuple(
        (name.strip(), value.strip())
        for name, _, value in (header.partition(":") for header in options["header"])
    )
    return _error(options["status"], options["error_type"], options["message"], headers)


def spoil(answer: Answer, fault: Fault, now_s: float) -> Answer:
    """Return what a fault makes of a good answer."""
    return SPOILERS[fault.name](answer, fault.options, now_s)


def _truncated(answer: Answer, _options: dict[str, Any], _now_s: float) -> Answer:
    return replace(answer, cut=len(answer.body) // 2)


def _oversized(answer: Answer, options: dict[str, Any], _now_s: float) -> Answer:
    return _edited(answer, lambda document: document.update(padding="x" * options["bytes"]))


def _not_json(answer: Answer, _options: dict[str, Any], _now_s: float) -> Answer:
    return replace(answer, body=b"<html><body>It works!</body></html>")


def _missing_field(answer: Answer, options: dict[str, Any], _now_s: float) -> Answer:
    return _edited(answer, lambda document: document["credentials"].pop(options["field"]))


def _control_character(answer: Answer, options: dict[str, Any], _now_s: float) -> Answer:
    def edit(document: dict[str, Any]) -> None:
        value = document["credentials"][options["field"]]
        document["credentials"][options["field"]] = f"{value[:4]}\n{value[4:]}"

    return _edited(answer, edit)


def _expired(answer: Answer, options: dict[str, Any], now_s: float) -> Answer:
    expiration = stamp(now_s + options["seconds"])
    return _edited(answer, lambda document: document["credentials"].update(expiration=expiration))


def _date_offset(answer: Answer, options: dict[str, Any], _now_s: float) -> Answer:
    return replace(answer, date_offset_s=options["seconds"])


def _edited(answer: Answer, edit: Callable[[dict[str, Any]], object]) -> Answer:
    document = json.loads(answer.body)
    edit(document)
    return replace(answer, body=json.dumps(document).encode())


SPOILERS: dict[str, Callable[[Answer, dict[str, Any], float], Answer]] = {
    "truncated-body": _truncated,
    "oversized-body": _oversized,
    "not-json": _not_json,
    "missing-field": _missing_field,
    "control-character": _control_character,
    "expired": _expired,
    "date-offset": _date_offset,
}

REQUEST_FAULTS = (*ERRORS, "status", *SPOILERS, RESET, DELAY)
ALL_FAULTS = (*REQUEST_FAULTS, *TLS_FAULTS)
