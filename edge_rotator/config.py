"""Read and check the configuration file: one table of keys, one clear error."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any, NamedTuple

from edge_rotator import files
from edge_rotator.errors import RotatorError

DEFAULT_PATH = "/etc/edge-rotator/config.toml"
BACKENDS = ("engine", "gnutls", "pkcs11-provider", "file")
MODES = ("process", "environment")
REQUIRED = None

_PATH = r"/[^\x00-\x1f\x7f]*"
_OPTIONAL_PATH = rf"(?:{_PATH})?"
_TEXT = r"[^\x00-\x1f\x7f]+"
_LABEL = rf"(?:{_TEXT})?"
_USER = r"[a-z_][a-z0-9_-]{0,31}"
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
_PROXY = r"http://(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\]):[0-9]{1,5}"
_URL = rf"https://(?:{_HOST}|\[[0-9a-fA-F:]+\](?::[0-9]{{1,5}})?)(?:/[a-z0-9._-]+)?"
# What a PKCS#11 module needs never includes these; they could change what the interpreter runs.
_ENVIRONMENT_REFUSED = r"LD_.*|PYTHON.*|AWS_.*|PATH|SSLKEYLOGFILE"


class Key(NamedTuple):
    """One key of the file: its default (REQUIRED: none), what a value must be, the same in words."""

    default: Any
    good: Callable[[Any], bool]
    rule: str


key: Any = Key  # for an attribute whose type is that of its values


def text(default: str | None, pattern: str, rule: str) -> Any:
    """Make a key that takes a text."""
    return Key(default, lambda value: _matches(pattern, value), rule)


def one_of(default: str, choices: tuple[str, ...]) -> Any:
    """Make a key that takes one of a few texts."""
    return Key(default, lambda value: value in choices, "one of " + ", ".join(choices))


def number(default: float, low: float, high: float) -> Any:
    """Make a key that takes a number of seconds."""
    return Key(
        default,
        lambda value: type(value) in (int, float) and low <= value <= high,
        f"seconds from {low:g} to {high:g}",
    )


def texts(default: list[str], pattern: str, rule: str) -> Any:
    """Make a key that takes a list of texts, of which the first begins with a slash."""
    return Key(
        default,
        lambda value: (
            isinstance(value, list)
            and all(_matches(pattern, item) for item in value)
            and (not value or value[0].startswith("/"))
        ),
        f"a list: {rule}",
    )


def _matches(pattern: str, value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_replica(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and _matches(_URL, value[0]) and _matches(_TEXT, value[1])
    )


# One class for each section of the file, one attribute for each key.


class _Provider:
    endpoint: str = text(
        REQUIRED, _HOST, "a host name, with :port if it is not 443, without a scheme or a path"
    )
    role_alias: str = text(REQUIRED, r"[A-Za-z0-9_=,@-]{1,128}", "1 to 128 of A-Z a-z 0-9 _ = , @ -")
    thing_name: str = text(REQUIRED, r"[A-Za-z0-9:_-]{1,128}", "1 to 128 of A-Z a-z 0-9 : _ -")
    certificate_file: str = text("/etc/edge-identity/device.crt", _PATH, "an absolute path")
    ca_file: str = text("/etc/edge-identity/ca-bundle.pem", _PATH, "an absolute path")
    backend: str = one_of("engine", BACKENDS)
    proxy: str = text("", rf"(?:{_PROXY})?", "http://HOST:PORT without a user, or empty for none")
    proxy_credentials_file: str = text("", _OPTIONAL_PATH, "an absolute path, or empty for a proxy without")
    connect_timeout: float = number(10, 0.1, 300)
    timeout: float = number(30, 0.1, 600)


class _Token:
    module: str = text("", _OPTIONAL_PATH, "an absolute path")
    label: str = text("", _LABEL, "a token's label, without control characters")
    key_label: str = text("", _LABEL, "a key's label, without control characters")
    pin_file: str = text("", _OPTIONAL_PATH, "an absolute path, or absent for a token without PIN")
    key_file: str = text("", _OPTIONAL_PATH, "an absolute path (backend file only)")
    environment: dict[str, str] = key({}, lambda value: isinstance(value, dict), "a table of names and texts")


class _Schedule:
    expected_lifetime: float = number(3600, 5, 43200)
    refresh_margin: float = number(300, 0, 43200)
    safety_margin: float = number(60, 0, 3600)


class _Delivery:
    mode: str = one_of("process", MODES)
    directory: str = text("/run/edge-rotator", _PATH, "an absolute path")
    region: str = text(REQUIRED, r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}", "an AWS region, eu-central-1")
    group: str = text("litestream", rf"(?:{_USER})?", "a group's name, or empty to leave the group")
    service: str = text("litestream.service", r"[A-Za-z0-9:_.@-]+\.service", "a unit's name")
    litestream_socket: str = text("/run/litestream-query.sock", _OPTIONAL_PATH, "a path")
    restart_command: list[str] = texts(
        ["/usr/bin/sudo", "-n", "/usr/bin/systemctl", "restart", "litestream.service"],
        _TEXT,
        "a program's absolute path and its arguments",
    )
    databases: list[str] = texts([], _PATH, "absolute paths")
    patterns: list[str] = texts([], _PATH, "absolute paths that end in a pattern")
    replicas: list[list[str]] = key(
        [],
        lambda value: isinstance(value, list) and all(_is_replica(item) for item in value),
        "a list of pairs, the bucket's https:// URL and a path in it, of databases and patterns in turn",
    )
    sync_interval: float = number(1, 0, 86400)


class _Service:
    user: str = text("edge-rotator", _USER, "a user's name")
    state_directory: str = text("/var/lib/edge-rotator", _PATH, "an absolute path")
    metrics_file: str = text("", _OPTIONAL_PATH, "an absolute path, or empty for none")


class Config(_Provider, _Token, _Schedule, _Delivery, _Service):
    """The checked configuration; one attribute per key of the file (times in seconds)."""

    path: str
    proxy_login: str | None = None  # USER:PASSWORD, once root has read it

    @property
    def credentials_file(self) -> str:
        """Where the credentials go in this mode."""
        name = "credentials.json" if self.mode == "process" else "litestream.env"
        return f"{self.directory}/{name}"


# section -> key
KEYS: dict[str, dict[str, Key]] = {
    section.__name__.strip("_").lower(): {
        name: value for name, value in vars(section).items() if isinstance(value, Key)
    }
    for section in Config.__bases__
}
# An upgrade to this version that broke off leaves the new program with a configuration of 2.0.0.
_IGNORED = ("delivery.sync_command", "delivery.litestream_config")


def load(path: str) -> Config:
    """Read and check the file at `path`. Raises `config_invalid`."""
    try:
        with open(path, "rb") as file:
            raw = tomllib.load(file)
    except OSError as exc:
        raise RotatorError("config_invalid", f"{path}: {exc.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise RotatorError("config_invalid", f"{path}: not TOML: {exc}") from None
    return check(path, raw)


def as_user(path: str) -> Config:
    """Read the configuration, and become the service's user before any file of that user is read."""
    config = load(path)
    files.become(config.user)
    return config


def _bad(path: str, key: str, value: object, rule: str) -> RotatorError:
    # Whoever wrote a password into the proxy's URL must not find it in a log.
    shown = "(value hidden)" if key == "provider.proxy" and "@" in str(value) else repr(value)
    return RotatorError("config_invalid", f"{path}: {key} = {shown}: must be {rule}")


def check(path: str, raw: dict[str, Any]) -> Config:
    """Check what the file at `path` holds. Raises `config_invalid`, naming the first bad key."""
    for section, given in raw.items():
        if section not in KEYS or not isinstance(given, dict):
            there_are = ", ".join(sorted(KEYS))
            raise RotatorError("config_invalid", f"{path}: [{section}] is no section; there are {there_are}")
        for name in given:
            if name not in KEYS[section] and f"{section}.{name}" not in _IGNORED:
                there_are = ", ".join(sorted(KEYS[section]))
                detail = f"{path}: {section}.{name} is no key; there are {there_are}"
                raise RotatorError("config_invalid", detail)
    if raw.get("provider", {}).get("backend") == "provider":
        raise _bad(path, "provider.backend", "provider", "written 'pkcs11-provider' now")
    config = Config()
    config.path = path
    for section, keys in KEYS.items():
        for name, key in keys.items():
            value = raw.get(section, {}).get(name, key.default)
            if not key.good(value):
                raise _bad(path, f"{section}.{name}", value, key.rule)
            setattr(config, name, value)
    _check_environment(config)
    _check_proxy(config)
    _cross_checks(config)
    return config


def _check_environment(config: Config) -> None:
    """Check what is set for the PKCS#11 module."""
    for name, value in config.environment.items():
        allowed = _matches(r"[A-Z_][A-Z0-9_]*", name) and not _matches(_ENVIRONMENT_REFUSED, name)
        if not allowed or not _matches(_TEXT, value):
            raise _bad(config.path, f"token.environment.{name}", value, "a variable the module reads")


def _check_proxy(config: Config) -> None:
    if config.proxy and not 1 <= int(config.proxy.rpartition(":")[2]) <= 65535:
        raise _bad(config.path, "provider.proxy", config.proxy, "a URL with a port to 65535")
    if config.proxy_credentials_file and not config.proxy:
        raise _bad(config.path, "provider.proxy", "", "set with provider.proxy_credentials_file")


def _cross_checks(config: Config) -> None:
    """Check what more than a pattern tells, and what depends on another key."""
    path = config.path
    if config.backend == "file":
        if not config.key_file:
            raise _bad(path, "token.key_file", "", "set with provider.backend = 'file'")
    else:
        for key in ("module", "label", "key_label"):
            if not getattr(config, key):
                raise _bad(path, f"token.{key}", "", f"set with backend = '{config.backend}'")
    host, _, port = config.endpoint.partition(":")
    if len(host) > 253 or (port and not 1 <= int(port) <= 65535):
        raise _bad(path, "provider.endpoint", config.endpoint, "a host name and a port to 65535")
    for key in ("refresh_margin", "safety_margin"):
        if getattr(config, key) >= config.expected_lifetime:
            rule = f"less than schedule.expected_lifetime ({config.expected_lifetime:g} s)"
            raise _bad(path, f"schedule.{key}", getattr(config, key), rule)
    if config.connect_timeout > config.timeout:
        rule = f"at most provider.timeout ({config.timeout:g} s)"
        raise _bad(path, "provider.connect_timeout", config.connect_timeout, rule)
    if config.mode == "environment" and not config.restart_command:
        raise _bad(path, "delivery.restart_command", [], "set with mode = 'environment'")
    if config.replicas and len(config.replicas) != len(config.databases) + len(config.patterns):
        raise _bad(path, "delivery.replicas", config.replicas, "one for each of databases and patterns")
    if len(set(config.databases)) != len(config.databases):
        raise _bad(path, "delivery.databases", config.databases, "without duplicates")
