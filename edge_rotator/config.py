"""Read and check the configuration file: one table of keys, one clear error."""

from __future__ import annotations

from edge_rotator.errors import RotatorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_PATH = "/etc/edge-rotator/config.toml"
DEFAULT_STATE_DIRECTORY = "/var/lib/edge-rotator"
BACKENDS = ("engine", "gnutls", "provider", "file")
MODES = ("process", "environment")
REQUIRED = None

_TEXT = r"[^\x00-\x1f\x7f]+"
_PATH = r"/[^\x00-\x1f\x7f]*"
_OPTIONAL_PATH = r"(?:/[^\x00-\x1f\x7f]*)?"
_NAME = r"[a-z_][a-z0-9_-]{0,31}"

# section -> key -> (default, rule, what the rule means); the rule is a pattern for a text, a range
# for a number, an item's pattern for a list or a table. REQUIRED: no default.
_NUMBER_KEYS: dict[str, dict[str, tuple[float, float, float, str]]] = {
    "provider": {
        "connect_timeout": (10, 0.1, 300, "seconds from 0.1 to 300"),
        "timeout": (30, 0.1, 600, "seconds from 0.1 to 600"),
    },
    "schedule": {
        "expected_lifetime": (3600, 5, 43200, "seconds from 5 to 43200"),
        "refresh_margin": (300, 0, 43200, "seconds from 0 to 43200"),
        "safety_margin": (60, 0, 3600, "seconds from 0 to 3600"),
    },
}
_TEXT_KEYS: dict[str, dict[str, tuple[str | None, str, str]]] = {
    "provider": {
        "endpoint": (
            REQUIRED,
            r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?",
            "a host name, with :port if it is not 443, without a scheme or a path",
        ),
        "role_alias": (REQUIRED, r"[A-Za-z0-9_=,@-]{1,128}", "1 to 128 of A-Z a-z 0-9 _ = , @ -"),
        "thing_name": (REQUIRED, r"[A-Za-z0-9:_-]{1,128}", "1 to 128 of A-Z a-z 0-9 : _ -"),
        "certificate_file": ("/etc/edge-identity/device.crt", _PATH, "an absolute path"),
        "ca_file": ("/etc/edge-identity/ca-bundle.pem", _PATH, "an absolute path"),
        "backend": ("engine", "|".join(BACKENDS), "one of " + ", ".join(BACKENDS)),
    },
    "token": {
        "module": ("", _OPTIONAL_PATH, "an absolute path"),
        "label": ("", rf"(?:{_TEXT})?", "a token's label, without control characters"),
        "key_label": ("", rf"(?:{_TEXT})?", "a key's label, without control characters"),
        "pin_file": ("", _OPTIONAL_PATH, "an absolute path, or absent for a token without PIN"),
        "key_file": ("", _OPTIONAL_PATH, "an absolute path (backend file only)"),
    },
    "delivery": {
        "mode": ("process", "|".join(MODES), "one of " + ", ".join(MODES)),
        "directory": ("/run/edge-rotator", _PATH, "an absolute path"),
        "region": (REQUIRED, r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}", "an AWS region, eu-central-1"),
        "group": ("litestream", rf"(?:{_NAME})?", "a group's name, or empty to leave the group"),
        "service": ("litestream.service", r"[A-Za-z0-9:_.@-]+\.service", "a unit's name"),
        "litestream_socket": ("/run/litestream/litestream.sock", _OPTIONAL_PATH, "a path"),
        "litestream_config": ("/etc/litestream.yml", _OPTIONAL_PATH, "an absolute path"),
    },
    "service": {
        "user": ("edge-rotator", _NAME, "a user's name"),
        "state_directory": (DEFAULT_STATE_DIRECTORY, _PATH, "an absolute path"),
        "metrics_file": ("", _OPTIONAL_PATH, "an absolute path, or empty for none"),
    },
}
_LIST_KEYS: dict[str, dict[str, tuple[list[str], str, str]]] = {
    "delivery": {
        "restart_command": (
            ["/usr/bin/sudo", "-n", "/usr/bin/systemctl", "restart", "litestream.service"],
            _TEXT,
            "a program's absolute path and its arguments",
        ),
        "sync_command": ([], _TEXT, "a program's absolute path and its arguments"),
        "databases": ([], _PATH, "absolute paths"),
    },
}
_TABLE_KEYS: dict[str, dict[str, tuple[str, str]]] = {
    "token": {"environment": (_TEXT, "names and texts")},
}
_ENVIRONMENT_NAME = r"[A-Z_][A-Z0-9_]*"
# What a module needs never includes these; they could change what the interpreter runs.
_ENVIRONMENT_REFUSED = r"LD_.*|PYTHON.*|AWS_.*|PATH|SSLKEYLOGFILE"


def _matches(pattern: str, text: str) -> bool:
    # Costs as much to import as starting Python; the timer's ticks use what is checked already.
    import re

    return re.fullmatch(pattern, text) is not None


class Config:
    """The checked configuration; one attribute per key of the file (times in seconds)."""

    path: str
    # [provider]
    endpoint: str
    role_alias: str
    thing_name: str
    certificate_file: str
    ca_file: str
    backend: str
    connect_timeout: float
    timeout: float
    # [token]
    module: str
    label: str
    key_label: str
    pin_file: str
    key_file: str
    environment: dict[str, str]
    # [schedule]
    expected_lifetime: float
    refresh_margin: float
    safety_margin: float
    # [delivery]
    mode: str
    directory: str
    region: str
    group: str
    service: str
    litestream_socket: str
    litestream_config: str
    restart_command: list[str]
    sync_command: list[str]
    databases: list[str]
    # [service]
    user: str
    state_directory: str
    metrics_file: str

    @property
    def credentials_file(self) -> str:
        """Where the credentials go in this mode."""
        name = "credentials.json" if self.mode == "process" else "litestream.env"
        return f"{self.directory}/{name}"


def _bad(path: str, key: str, value: object, rule: str) -> RotatorError:
    return RotatorError("config_invalid", f"{path}: {key} = {value!r}: must be {rule}")


def values(config: Config) -> dict[str, Any]:
    """Flatten a checked configuration for the state's cache."""
    return {name: value for name, value in vars(config).items() if name != "path"}


def restore(path: str, cached: dict[str, Any]) -> Config | None:
    """Rebuild from `values`, without checking again; None if keys or types are not as they were."""
    types: dict[str, tuple[type, ...]] = {"environment": (dict,)}
    for tables, accepted in (
        (_NUMBER_KEYS, (int, float)),
        (_TEXT_KEYS, (str,)),
        (_LIST_KEYS, (list,)),
    ):
        for keys in tables.values():
            types.update(dict.fromkeys(keys, accepted))
    if cached.keys() != types.keys():
        return None
    config = Config()
    config.path = path
    for name, value in cached.items():
        if type(value) not in types[name]:
            return None
        setattr(config, name, value)
    return config


def load(path: str) -> Config:
    """Read and check the file at `path`. Raises `config_invalid`."""
    import tomllib

    try:
        with open(path, "rb") as file:
            raw = tomllib.load(file)
    except OSError as exc:
        raise RotatorError("config_invalid", f"{path}: {exc.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise RotatorError("config_invalid", f"{path}: not TOML: {exc}") from None
    return check(path, raw)


def check(path: str, raw: dict[str, Any]) -> Config:
    """Check what the file at `path` holds. Raises `config_invalid`, naming the first bad key."""
    config = Config()
    config.path = path
    known = {
        section: {
            key
            for table in (_NUMBER_KEYS, _TEXT_KEYS, _LIST_KEYS, _TABLE_KEYS)
            for key in table.get(section, ())
        }
        for section in _TEXT_KEYS.keys() | _NUMBER_KEYS.keys()
    }
    for section, values in raw.items():
        if section not in known or not isinstance(values, dict):
            raise RotatorError(
                "config_invalid",
                f"{path}: [{section}] is no section; there are {', '.join(sorted(known))}",
            )
        for key in values:
            if key not in known[section]:
                raise RotatorError(
                    "config_invalid",
                    f"{path}: {section}.{key} is no key; there are " + ", ".join(sorted(known[section])),
                )
    _texts(config, raw)
    _numbers(config, raw)
    _lists(config, raw)
    _cross_checks(config)
    return config


def _texts(config: Config, raw: dict[str, Any]) -> None:
    for section, keys in _TEXT_KEYS.items():
        for key, (default, pattern, rule) in keys.items():
            value = raw.get(section, {}).get(key, default)
            if not isinstance(value, str) or not _matches(pattern, value):
                raise _bad(config.path, f"{section}.{key}", value, rule)
            setattr(config, key, value)


def _numbers(config: Config, raw: dict[str, Any]) -> None:
    for section, keys in _NUMBER_KEYS.items():
        for key, (default, low, high, rule) in keys.items():
            value = raw.get(section, {}).get(key, default)
            good = isinstance(value, int | float) and not isinstance(value, bool)
            if not good or not low <= value <= high:
                raise _bad(config.path, f"{section}.{key}", value, rule)
            setattr(config, key, value)


def _lists(config: Config, raw: dict[str, Any]) -> None:
    for section, lists in _LIST_KEYS.items():
        for key, (default, pattern, rule) in lists.items():
            value = raw.get(section, {}).get(key, default)
            good = isinstance(value, list) and all(
                isinstance(item, str) and _matches(pattern, item) for item in value
            )
            if not good or (value and not value[0].startswith("/")):
                raise _bad(config.path, f"{section}.{key}", value, f"a list: {rule}")
            setattr(config, key, list(value))
    environment = raw.get("token", {}).get("environment", {})
    pattern, rule = _TABLE_KEYS["token"]["environment"]
    if not isinstance(environment, dict):
        raise _bad(config.path, "token.environment", environment, f"a table of {rule}")
    for name, value in environment.items():
        allowed = _matches(_ENVIRONMENT_NAME, name) and not _matches(_ENVIRONMENT_REFUSED, name)
        if not allowed or not isinstance(value, str) or not _matches(pattern, value):
            raise _bad(config.path, f"token.environment.{name}", value, "a variable the module reads")
    config.environment = dict(environment)


def _cross_checks(config: Config) -> None:
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
    if len(set(config.databases)) != len(config.databases):
        raise _bad(path, "delivery.databases", config.databases, "without duplicates")
