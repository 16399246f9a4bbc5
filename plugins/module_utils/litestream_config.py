# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Check litestream_config, render it with the defaults of its version, and tell what follows from it.

Litestream ignores unknown keys silently and runs on with an empty `dbs`; what is wrong must be found here.
The keys are those of Litestream 0.5.17 and 0.3.13, read from the YAML tags of their configuration
types; `age` is left out of 0.5, which ends with an error when it finds it. Keys of other stores than S3
are left out, since the rotator's credentials are for S3 alone.
"""

from __future__ import annotations

import glob
import math
import posixpath
import re
from typing import Any

Config = dict[str, Any]

# Keys that stand in a replica, in 0.5 also at the top level as defaults for all replicas.
_SETTINGS_05 = {
    "sync-interval", "validation-interval", "max-sync-ltx-files", "auto-recover",
    "region", "bucket", "endpoint", "force-path-style", "sign-payload", "sign-accept-encoding",
    "require-content-md5", "skip-verify", "storage-class", "part-size", "concurrency",
    "sse-kms-key-id",
}  # fmt: skip
_SSE_C = {"sse-customer-algorithm", "sse-customer-key-path"}
_LOGGING = {"level", "type", "stderr"}
_NESTED: dict[str, dict[str, set[str]]] = {
    "0.3": {"logging": _LOGGING},
    "0.5": {
        "logging": _LOGGING | {"source"},
        "snapshot": {"interval", "retention"},
        "retention": {"enabled"},
        "validation": {"interval"},
    },
}
_TOP = {
    "0.3": {"addr", "dbs", "logging"},
    "0.5": _SETTINGS_05 | {
        "addr", "dbs", "logging", "levels", "snapshot", "retention",
        "validation", "l0-retention", "l0-retention-check-interval", "shutdown-sync-timeout",
        "shutdown-sync-interval", "heartbeat-url", "heartbeat-interval", "verify-compaction",
    },
}  # fmt: skip
_DATABASE = {
    "0.3": {
        "path", "meta-path", "monitor-interval", "checkpoint-interval", "busy-timeout",
        "min-checkpoint-page-count", "max-checkpoint-page-count", "replicas",
    },
    "0.5": {
        "path", "dir", "pattern", "recursive", "watch", "snapshot", "meta-path", "meta-dir",
        "monitor-interval", "checkpoint-interval", "busy-timeout", "min-checkpoint-page-count",
        "truncate-page-n", "max-sync-wal-bytes", "restore-if-db-not-exists", "replica", "replicas",
    },
}  # fmt: skip
_REPLICA = {
    "0.3": {
        "type", "name", "path", "url", "retention", "retention-check-interval", "sync-interval",
        "snapshot-interval", "validation-interval", "region", "bucket", "endpoint",
        "force-path-style", "skip-verify", "age",
    },
    "0.5": _SETTINGS_05 | {"type", "name", "path", "url"},
}  # fmt: skip
_SECRETS = {
    "access-key-id", "secret-access-key", "session-token", "account-key", "password", "sas-token",
    "jwt", "seed", "nkey", "token", "sse-customer-key", "webdav-password", "identities",
}  # fmt: skip
# What Litestream is able to do and the appliance does not let it, at the top level.
_REFUSED = {
    "exec": "it would have the credentials in its environment or reach; run it by a unit of its own",
    "mcp-addr": "it obeys whoever reaches the port",
    "socket": "the role sets it, since whoever reaches it can have any database replicated to any place",
}
_USERINFO = re.compile(r"(\w+:)?(//)?[^/\s]*@")
_URL = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]*)/([^\s?#%@\\]*)")
_ENDPOINT = re.compile(r"https://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?/?")
_LOOPBACK = re.compile(r"(127(\.\d{1,3}){3}|localhost|\[::1\]):\d{1,5}")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_KEYS = re.compile(r"(interval|retention|timeout)$")
_DEFAULTS_05: Config = {
    "addr": "127.0.0.1:9090",
    "levels": [{"interval": "5m"}, {"interval": "1h"}],
    "l0-retention": "1h",
    "l0-retention-check-interval": "1h",
    "snapshot": {"interval": "24h", "retention": "72h"},
    "shutdown-sync-timeout": "10s",
    # All that waits: after each 256 files it would say that it has synced, with thousands yet to go.
    "max-sync-ltx-files": 0,
}
# What each profile has in place of these, and of Litestream's own second for `monitor-interval`. That one
# decides how many requests there are: at each look, what was written since the last one becomes a file, and
# each file is a request. `sync-interval` only says when the files that there are go out.
PROFILES: dict[str, Config] = {
    "default": {},
    "metered": {
        "monitor-interval": "1m",
        "levels": [{"interval": "1h"}],
        "l0-retention-check-interval": "24h",
        "snapshot": {"interval": "168h", "retention": "336h"},
    },
    "hourly": {
        "monitor-interval": "1h",
        "levels": [{"interval": "24h"}],
        "l0-retention": "24h",
        "l0-retention-check-interval": "24h",
        "snapshot": {"interval": "168h", "retention": "336h"},
    },
}
_PATHS = ("path", "dir", "meta-path", "meta-dir")
_OF_DIR = {"pattern", "recursive", "watch", "meta-dir"}  # ignored with `path`, or the end of Litestream
# A unit file splits, unquotes or expands these; Litestream expands `$` and shortens the rest.
_MISREAD = re.compile(r"[\s\"'\\%$]|//|/\.{1,2}(/|$)")
_PATTERN = re.compile(r"(?!None$)[^/\x00-\x1f]+")
_PRIVATE = re.compile(r"/(var/)?tmp(/.*)?")  # Litestream's unit has its own
# Directories that are not one application's: 2770 for its group would lock others out, or let it in.
_SHARED = re.compile(
    r"/[^/]*|/(bin|boot|dev|etc|lib(x?32|64)?|lost\+found|proc|root|run|sbin|sys|tmp|usr)/.*"
    r"|/home/[^/]+(/\..*)?|(/.*)?/\.(ssh|gnupg)(/.*)?|/opt/(edge-rotator|litestream)(/.*)?"
    r"|/var/(backups|cache|lib|local|log|mail|opt|spool)|/var/(lock|run|tmp)(/.*)?"
    r"|/var/(cache|log)/(apt|debconf|journal|private)(/.*)?|/var/spool/(anacron|cron)(/.*)?"
    r"|/var/lib/(apt|cloud|containers|dbus|docker|dpkg|edge-rotator|edge-token|litestream|misc"
    r"|NetworkManager|pam|polkit-1|private|python|softhsm|sudo|systemd|ucf)(/.*)?"
)
_BESIDE = ("", "-wal", "-shm", "-journal")  # what SQLite adds to a database's name
_VARIABLE = re.compile(r"edge_databases(_\w+)?")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,26}")  # NAME-data is a group, of 32 characters at most
_GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_UNIT = re.compile(r"[A-Za-z0-9:_.@\\-]{1,200}[.](service|socket|timer|path|target)")
_OURS = {"group", "unit"}  # keys of an entry that are not Litestream's
_STOP_MARGIN = 15.0  # s; what a stop takes beside the last sync of each database
_STOP_LEAST = 45  # s
RARELY_S = 5.0  # s between two looks at a database; where there are more, one is asked for when it is needed
_SYNC_SLACK = 15.0  # s; that of the rotator, which knows nothing of Ansible


def seconds(duration: object) -> float | None:
    """Seconds of a Go duration such as `1h30m`; None when it is not one."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", str(duration))
    if not parts or "".join(number + unit for number, unit in parts) != str(duration):
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def series(version: str) -> str:
    """`0.5` of `0.5.17`: configuration keys are those of a series."""
    return ".".join(str(version).lstrip("v").split(".")[:2])


def replicas_of(database: Config) -> list[Config]:
    """Replicas of one database, whichever of the two keys names them."""
    found = database.get("replicas") or ([database["replica"]] if database.get("replica") else [])
    return [replica for replica in found if isinstance(replica, dict)]


def location(replica: Config, top: Config) -> tuple[str, str]:
    """Bucket and path of a replica, from its `url`, its keys or the defaults at the `top` level."""
    if replica.get("url"):
        match = _URL.fullmatch(str(replica["url"]))
        return (match[1], match[2].strip("/")) if match else ("", "")
    return str(replica.get("bucket") or top.get("bucket", "")), str(replica.get("path", "")).strip("/")


def _unknown(where: str, keys: set[str], allowed: set[str], version: str) -> list[str]:
    return [
        f"{where}.{key} is not a key of Litestream {version} with S3: remove it or correct it "
        f"(known here: {', '.join(sorted(allowed))})"
        for key in sorted(keys - allowed - _SECRETS - _SSE_C)
    ]


def _value(here: str, key: str, value: object) -> str:
    """Say what is wrong with one value, wherever it stands; empty where nothing is."""
    text = value if isinstance(value, str) else ""
    if key in _SECRETS or (key.endswith(("url", "endpoint")) and _USERINFO.match(text)):
        return (
            f"{here} (value hidden) puts a secret into litestream.yml: remove it, "
            "the rotator delivers the credentials"
        )
    if "$" in text and key not in _PATHS:
        return f"{here} has a '$', and Litestream replaces what follows '$': write it out"
    if key == "skip-verify" and value is not False:
        return f"{here} is '{value}': S3 has to prove itself, remove it; litestream_ca_file takes a CA's file"
    if key in _SSE_C:
        return (
            f"{here} is for a key of the writer's own (SSE-C), and the fleet's bucket policy denies uploads "
            "with one: remove it, the bucket encrypts by itself"
        )
    if key == "heartbeat-url" and not text.startswith("https://"):
        # Not repeated: its path may be a secret.
        return f"{here} is not https://HOST/PATH: write that, a heartbeat goes by TLS alone"
    if key == "endpoint" and not _ENDPOINT.fullmatch(str(value)):
        return f"{here} is '{value}': data goes by TLS alone, write https://HOST or https://HOST:PORT"
    if _DURATION_KEYS.search(key) and seconds(value) is None:
        return f"{here} is '{value}': write a duration with its unit, like 10s"
    return ""


def _walk(where: str, node: object) -> list[str]:
    """Values that are wrong wherever they stand."""
    problems: list[str] = []
    if isinstance(node, dict):
        for key, value in node.items():
            here = f"{where}.{key}"
            if isinstance(value, dict | list) and key not in _SECRETS:
                problems += _walk(here, value)
            elif problem := _value(here, str(key), value):
                problems.append(problem)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            problems += _walk(f"{where}[{index}]", value)
    return problems


def _directory(key: str, value: object) -> str:
    """Return the directory that Litestream writes in because of one of _PATHS."""
    return posixpath.dirname(_plain(value)) if key == "path" else _plain(value)


def _plain(path: object) -> str:
    return str(path).rstrip("/") or "/"


def _paths(where: str, database: Config, managed: bool) -> list[str]:
    """Paths that Litestream or its unit cannot use, and directories that the role must not share."""
    problems: list[str] = []
    for key in _PATHS:
        if key not in database:
            continue
        value, directory = str(database[key]), _directory(key, database[key])
        here = f"{where}.{key} is '{value}'"
        own = "/var/lib/app/app.db" if key == "path" else "/var/lib/app"
        if not value.startswith("/"):
            problems.append(f"{here}, a relative path: give an absolute one")
        elif _MISREAD.search(value.rstrip("/")):
            problems.append(
                f"{here}, which Litestream's unit would misread: give a path without whitespace, quotes, "
                "backslashes, '%', '$', '//', '.' and '..'"
            )
        elif _PRIVATE.fullmatch(directory):
            problems.append(f"{here}, which Litestream's unit does not see: give another place, like {own}")
        elif managed and _SHARED.fullmatch(directory):
            problems.append(
                f"{here}, and {directory} is not for one application alone, so it cannot become writable "
                f"for its group: use a directory of its own, like {own}, or set "
                "litestream_manage_directories: false and see to group and mode yourself"
            )
    if "path" not in database and "dir" not in database:
        problems.append(f"{where} has no path: give the absolute path of the SQLite file")
    elif "dir" in database and ("path" in database or not _PATTERN.fullmatch(str(database.get("pattern")))):
        problems.append(
            f"{where}.dir is '{database['dir']}': give a pattern of names, like '*.db', and no path beside it"
        )
    elif "dir" not in database:
        problems += [
            f"{where}.{key} is '{database[key]}', which a path does not take: remove it, or use dir"
            for key in sorted(_OF_DIR & set(database))
        ]
    return problems


def _replica(where: str, replica: Config, top: Config, version: str, prefix: str) -> list[str]:
    """Say what is wrong with a replica: its keys, its store, its place."""
    problems = _unknown(where, set(replica), _REPLICA[series(version)], version)
    url = str(replica.get("url") or "")
    if ("type" in replica or not url) and replica.get("type") != "s3":
        problems.append(
            f"{where}.type is '{replica.get('type', '')}': write s3, the credentials reach nothing else"
        )
    if url and (replica.get("path") or replica.get("bucket") or top.get("bucket")):
        problems.append(f"{where} has a url, and path or bucket too: Litestream takes the one or the others")
    if url and not _URL.fullmatch(url):
        # Not repeated: it may hold a secret.
        return [
            *problems,
            f"{where}.url is not s3://BUCKET/PATH: write that, without user, port and options; "
            "region, endpoint and the like stand as keys beside it",
        ]
    bucket, path = location(replica, top)
    if not bucket or not path:
        problems.append(
            f"{where} names bucket '{bucket}' and path '{path}': give both, by url or by bucket and path; "
            "fleet_bucket is the bucket of edge_databases"
        )
    elif "$" in path or {"", ".", ".."} & set(path.split("/")):
        problems.append(f"{where} has path '{path}': write it without '$', '//', '.' and '..'")
    elif prefix and not f"{path}/".startswith(prefix):
        problems.append(
            f"{where} has path '{path}': start it with '{prefix}', "
            "the only prefix this device's credentials reach"
        )
    return problems


def _database(
    where: str, database: Config, top: Config, version: str, prefix: str, managed: bool
) -> list[str]:
    kind = series(version)
    problems = _unknown(where, set(database), _DATABASE[kind], version)
    problems += _paths(where, database, managed)
    replicas = replicas_of(database)
    if not replicas or (kind == "0.5" and len(replicas) > 1):
        want = "exactly one replica" if kind == "0.5" else "at least one replica"
        problems.append(f"{where} has {len(replicas)} replicas: Litestream {version} takes {want}")
    for index, replica in enumerate(replicas):
        problems += _replica(f"{where}.replica[{index}]", replica, top, version, prefix)
    return problems


def _intervals(config: Config, version: str, restart_interval: float, profile: str) -> list[str]:
    """Intervals that this version cannot honour, between two restarts or at all."""
    problems: list[str] = []
    replicas = {
        f"litestream_config.dbs[{number}].replica[{index}]": replica
        for number, database in enumerate(config.get("dbs") or [])
        for index, replica in enumerate(replicas_of(database) if isinstance(database, dict) else [])
    }
    if series(version) == "0.5":
        snapshot = config.get("snapshot") if isinstance(config.get("snapshot"), dict) else {}
        merged = {**_DEFAULTS_05["snapshot"], **PROFILES[profile].get("snapshot", {}), **(snapshot or {})}
        interval, retention = seconds(merged["interval"]), seconds(merged["retention"])
        if interval and retention and retention < interval:
            problems.append(
                f"litestream_config.snapshot.retention is '{merged['retention']}', shorter than "
                f"snapshot.interval '{merged['interval']}': nothing could be restored in between"
            )
        return problems
    for where, replica in replicas.items() if restart_interval else ():
        value = replica.get("retention-check-interval")
        if value and (seconds(value) or 0) >= restart_interval:
            problems.append(
                f"{where}.retention-check-interval is "
                f"'{value}', but in environment mode Litestream {version} restarts every "
                f"{restart_interval:.0f} s and would never delete anything: set it below that, "
                "use Litestream 0.5, or edge_rotator_delivery: process"
            )
    return problems


def _choices(kind: str, version: str, profile: str) -> list[str]:
    """Say that nothing is known here of a version or a profile."""
    if kind not in _TOP:
        return [f"litestream_version is '{version}': versions 0.3 and 0.5 are known here"]
    known = list(PROFILES) if kind == "0.5" else ["default"]
    if profile in known:
        return []
    return [
        f"litestream_profile is '{profile}': Litestream {version} has {', '.join(known)} here, choose one"
    ]


def check(
    config: object,
    version: str,
    restart_interval: float = 0,
    prefix: str = "",
    managed: bool = True,
    profile: str = "default",
) -> list[str]:
    """Every problem of `litestream_config`, one sentence each with key, value and fix.

    `restart_interval` is the time between two restarts in seconds, 0 where rotation does not restart.
    `prefix` is what every replica path has to start with, empty for any.
    `managed` says that the role gives the databases' directories to the applications' group.
    `profile` is one of PROFILES.
    """
    if not isinstance(config, dict):
        return [f"litestream_config is a {type(config).__name__}: write a mapping with a list dbs"]
    kind = series(version)
    if unknown := _choices(kind, version, profile):
        return unknown
    problems = _unknown("litestream_config", set(config) - set(_REFUSED), _TOP[kind], version)
    problems += [
        f"litestream_config.{key} is not for the appliance: {why}; remove it"
        for key, why in _REFUSED.items()
        if key in config
    ]
    for key, allowed in _NESTED[kind].items():
        if isinstance(config.get(key), dict):
            problems += _unknown(f"litestream_config.{key}", set(config[key]), allowed, version)
        elif key in config:
            problems.append(f"litestream_config.{key} is '{config[key]}': write a mapping")
    problems += _walk("litestream_config", config)
    if config.get("addr") and not _LOOPBACK.fullmatch(str(config["addr"])):
        problems.append(
            f"litestream_config.addr is '{config['addr']}': metrics and pprof stay on loopback, "
            "use 127.0.0.1:PORT"
        )
    listed = config.get("dbs")
    if not isinstance(listed, list) or not listed:
        return [
            *problems,
            f"litestream_config.dbs is '{listed}': list at least one database, there or in edge_databases",
        ]
    seen: dict[tuple[str, str], str] = {}
    paths: dict[str, str] = {}
    for number, database in enumerate(listed):
        where = f"litestream_config.dbs[{number}]"
        if not isinstance(database, dict):
            problems.append(f"{where} is '{database}': write a mapping with path and replica")
            continue
        problems += _database(where, database, config, version, prefix, managed)
        path = str(database.get("path") or database.get("dir"))
        if path in paths:
            problems.append(f"{where}.path '{path}' is also that of {paths[path]}: name it once")
        paths[path] = where
        for replica in replicas_of(database):
            place = location(replica, config)
            if place in seen and all(place):
                problems.append(
                    f"{where} replicates to '{place[0]}/{place[1]}', as {seen[place]} does: "
                    "two databases with one replica path destroy each other, give each its own"
                )
            seen[place] = where
    return problems + _intervals(config, version, restart_interval, profile)


def _entry(name: str, entry: Config, top: Config, version: str, place: dict[str, str]) -> Config:
    """Make an entry of `dbs` from one of edge_databases: what its replica does not say is derived."""
    rest = {key: value for key, value in entry.items() if key not in _OURS}
    if "replicas" in rest:
        return rest
    replica = rest.pop("replica", {})
    path = f"{place['prefix']}{name}{'.db' if 'path' in entry else ''}"
    derived = {"type": "s3", "bucket": place["bucket"], "path": path, "region": place["region"]}
    said = {*top, *replica, *(("bucket", "path") if "url" in replica else ())}
    replica = {**{key: value for key, value in derived.items() if key not in said}, **replica}
    return {**rest, "replica": replica} if series(version) == "0.5" else {**rest, "replicas": [replica]}


def merge(
    config: Any,
    variables: dict[str, Any],
    groups: dict[str, str],
    default: str,
    version: str,
    place: dict[str, str],
) -> tuple[Any, dict[str, str], dict[int, str]]:
    """Add the databases of edge_databases to `litestream_config`: the one place where the two meet.

    `variables` are the variables whose names begin with edge_database, each a mapping of entries by name: an
    entry of `dbs` with a `group`, by default NAME-data, and a `unit`. `place` has the `prefix`, `bucket` and
    `region` of replicas that say nothing else. `groups` are litestream_data_groups, `default` is
    litestream_data_group.

    Returns the configuration, the groups by directory, and the names of those entries by number in `dbs`.
    Raises ValueError with a line for each problem but those of Litestream's own keys, which check finds.
    """
    if not isinstance(config, dict) or not isinstance(config.get("dbs", []), list):
        return config, groups, {}
    problems: list[str] = []
    dbs, groups = list(config.get("dbs", [])), {_plain(path): group for path, group in groups.items()}
    owners = dict.fromkeys(groups, "litestream_data_groups")
    numbered: dict[int, str] = {}
    found: dict[str, str] = {}
    paths: set[str] = set()
    for variable, entries in sorted(variables.items()):
        if not _VARIABLE.fullmatch(variable):
            problems.append(f"{variable} is read by nobody: call it edge_databases or edge_databases_GROUP")
        elif not isinstance(entries, dict):
            problems.append(
                f"{variable} is a {type(entries).__name__}: write a mapping of names, {{}} for none"
            )
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            where = f"{variable}.{name}"
            if not _NAME.fullmatch(str(name)):
                problems.append(f"{where} is no name: take up to 27 of a-z, 0-9, '_' and '-', a letter first")
                continue
            if name in found:
                problems.append(f"{where} has the name of {found[name]}: call one of the two something else")
            found[name] = where
            if not isinstance(entry, dict) or not isinstance(entry.get("replica", {}), dict):
                problems.append(f"{where} and its replica, if it has one, must be mappings: write path: /…")
                continue
            group = str(entry.get("group", f"{name}-data"))
            if not _GROUP.fullmatch(group) or (group == default and "group" not in entry):
                problems.append(
                    f"{where}.group is '{group}': name a system group, one that is this application's alone"
                )
            problems += [
                f"{where}.unit is '{unit}': name the unit that writes it, or a list, like app.service"
                for unit in _units(entry) or ()
                if not _UNIT.fullmatch(str(unit))
            ]
            for key in {"path", "dir"} & set(entry):
                directory = _directory(key, entry[key])
                # Where the path itself is named twice, check says so.
                if groups.setdefault(directory, group) != group and str(entry[key]) not in paths:
                    problems.append(
                        f"{where}.group is '{group}', and {directory} is of '{groups[directory]}' by "
                        f"{owners[directory]}: name one group in both, or use a directory of its own"
                    )
                owners.setdefault(directory, where)
                paths.add(str(entry[key]))
            numbered[len(dbs)] = where
            dbs.append(_entry(name, entry, config, version, place))
    if problems:
        raise ValueError("\n".join(problems))
    return {**config, "dbs": dbs}, groups, numbered


def _units(entry: Config) -> list[Any] | None:
    """Units of an entry, one or a list of them; None where it says nothing."""
    units = entry.get("unit")
    return units if isinstance(units, list) or units is None else [units]


def units_of(config: Config, variables: dict[str, Any]) -> dict[str, list[str] | None]:
    """Units that write a database, by path or `dir`; None where neither edge_databases nor anybody says it.

    `variables` are those of merge, which has found nothing wrong with them.
    """
    said = {
        str(entry.get("path") or entry.get("dir")): _units(entry)
        for entries in variables.values()
        for entry in entries.values()
    }
    named = [str(entry.get("path") or entry.get("dir")) for entry in config["dbs"]]
    return {place: said.get(place) for place in named}


def named(problem: str, numbered: dict[int, str]) -> str:
    """Name the entry of edge_databases that a problem is about, instead of its number in `dbs`."""

    def name(match: re.Match[str]) -> str:
        where = numbered.get(int(match[1]))
        return where + (".replica" if match[2] else "") if where else match[0]

    return re.sub(r"litestream_config\.dbs\[(\d+)\](\.replicas?\[0\])?", name, problem)


def _with_meta(database: Config, meta: str) -> Config:
    """Return a database with a place below `meta` for Litestream's own files, unless it names one.

    `meta-path` alone: Litestream 0.3 and early 0.5 know no `meta-dir`.
    """
    if not meta or {"meta-path", "meta-dir"} & set(database):
        return database
    place = str(database["path"] if "path" in database else database["dir"])
    return {**database, "meta-path": posixpath.join(meta, place.strip("/"))}


def render(
    config: Config,
    version: str,
    restart_interval: float = 0,
    socket: str = "",
    meta: str = "",
    profile: str = "default",
) -> Config:
    """Make the configuration that is written: the operator's over the profile's over the series' defaults.

    0.5: few LIST requests when idle, metrics on loopback, control socket for Litestream's user alone.
    0.3: where rotation restarts Litestream, retention is checked well within the time between restarts.
    Both: Litestream's own files are below `meta`, where no application can put a link among them.
    """
    config = {**config, "dbs": [_with_meta(database, meta) for database in config.get("dbs", [])]}
    if series(version) == "0.5":
        control = {"enabled": True, "path": socket, "permissions": 0o600}
        chosen = dict(PROFILES[profile])
        look = {"monitor-interval": chosen.pop("monitor-interval")} if chosen else {}
        merged = {**_DEFAULTS_05, "socket": control, **chosen, **config}
        parts = (_DEFAULTS_05["snapshot"], chosen.get("snapshot", {}), config.get("snapshot", {}))
        merged["snapshot"] = {key: value for part in parts for key, value in part.items()}
        merged["dbs"] = [{**look, **database} for database in config["dbs"]]
        return merged
    merged = {"addr": "127.0.0.1:9090", **config}
    if restart_interval:
        check = {"retention-check-interval": f"{max(1, int(restart_interval / 2))}s"}
        merged["dbs"] = [
            {**database, "replicas": [{**check, **replica} for replica in replicas_of(database)]}
            for database in config.get("dbs", [])
        ]
    return merged


def databases(config: Config) -> list[str]:
    """Absolute paths of the SQLite files that are named; those of a `dir` only Litestream knows."""
    return [str(database["path"]) for database in config.get("dbs", []) if "path" in database]


def patterns(config: Config) -> list[str]:
    """Absolute patterns of the files that a `dir` means; `**` stands for the directories below."""
    return [
        posixpath.join(database["dir"], "**" if database.get("recursive") else "", str(database["pattern"]))
        for database in config.get("dbs", [])
        if "dir" in database
    ]


def _bucket_url(replica: Config, top: Config, bucket: str, region: str) -> str:
    """URL of a replica's bucket, as Litestream would write it."""
    setting = {**top, **replica}
    endpoint = str(setting.get("endpoint") or "").rstrip("/")
    # Without the key, an endpoint of one's own is asked by path.
    by_path = setting["force-path-style"] if setting.get("force-path-style") is not None else bool(endpoint)
    endpoint = endpoint or f"https://s3.{setting.get('region') or region}.amazonaws.com"
    return f"{endpoint}/{bucket}" if by_path else endpoint.replace("https://", f"https://{bucket}.", 1)


def replica_places(config: Config, region: str) -> list[list[str]]:
    """URL of the bucket and path in it, of the first replica of each path, then of each `dir`."""
    entries = [entry for entry in config.get("dbs") or [] if isinstance(entry, dict) and replicas_of(entry)]
    places = []
    for entry in sorted(entries, key=lambda entry: "dir" in entry):
        replica = replicas_of(entry)[0]
        bucket, path = location(replica, config)
        places.append([_bucket_url(replica, config, bucket, region), path])
    return places


def sync_interval(config: Config) -> float:
    """Longest interval at which a database is synced, in seconds; Litestream's default is one."""
    replicas = [replica for entry in config.get("dbs") or [] for replica in replicas_of(entry)]
    given = [replica.get("sync-interval", config.get("sync-interval", "1s")) for replica in replicas]
    return max((seconds(value) or 1.0 for value in given), default=1.0)


def monitor_interval(config: Config) -> float:
    """Longest time between two looks at a database, in seconds; Litestream's default is one."""
    given = [entry.get("monitor-interval", "1s") for entry in config.get("dbs") or []]
    return max((seconds(value) or 1.0 for value in given), default=1.0)


def sync_limit(config: Config) -> float:
    """Seconds after which a database that is not in its replica is late, as `edge-rotator status` has it."""
    return 2 * sync_interval(config) + _SYNC_SLACK


def late_limit(config: Config) -> float:
    """Seconds after which what an application wrote has to be in the replica, the wait for a look included.

    status cannot tell that: what Litestream has not looked at is nothing that it knows.
    """
    return monitor_interval(config) + sync_limit(config)


def groups_of(config: Config, named: dict[str, str], default: str, own: str) -> dict[str, str]:
    """Each directory that Litestream writes in, for databases or its own files, and its group.

    The group is the one that is named for it, or the default. Litestream's own files have its `own` group,
    since an application could put a link among them.

    Raises ValueError, which says what to write, where applications would share a group unasked, or one of
    those whose members read more than databases.
    """
    named = {_plain(directory): group for directory, group in named.items()}
    if refused := {"root", own} & {default, *named.values()}:
        raise ValueError(
            f"the group '{refused.pop()}' is named by litestream_data_group, litestream_data_groups or "
            "edge_databases, and its members read more than databases: give applications groups of their own"
        )
    groups: dict[str, str] = {}
    unnamed = ""
    for number, database in enumerate(config["dbs"]):
        where = f"litestream_config.dbs[{number}]"
        key = "path" if "path" in database else "dir"
        main = _directory(key, database[key])
        if main not in named and main != (unnamed := unnamed or main):
            raise ValueError(
                f"{where}.{key} is '{database[key]}', and {unnamed} is of the group '{default}', too: name "
                f"the group of {main} in litestream_data_groups, the same one if one application has both"
            )
        for place in (key, "meta-path", "meta-dir"):
            if place in database:
                directory = _directory(place, database[place])
                if directory in groups and (place != key or groups[directory] == own):
                    raise ValueError(
                        f"{where}.{place} is '{database[place]}', and {directory} is named before, for "
                        "databases or for Litestream's own files: leave meta-path and meta-dir out, or use "
                        "a directory of its own"
                    )
                groups[directory] = named.get(directory, default) if place == key else own
    if unknown := sorted(set(named) - {directory for directory, group in groups.items() if group != own}):
        raise ValueError(
            f"litestream_data_groups names {unknown[0]}, where litestream_config has nothing: remove it, "
            f"or correct it (there are {', '.join(groups)})"
        )
    return groups


def searches(config: Config) -> list[Config]:
    """Where the databases and what SQLite keeps beside them are found, in the words of module find."""
    searches = []
    for database in config.get("dbs", []):
        key = "path" if "path" in database else "dir"
        pattern = database["pattern"] if key == "dir" else glob.escape(posixpath.basename(database[key]))
        searches.append(
            {
                "paths": _directory(key, database[key]),
                "patterns": [f"{pattern}{suffix}" for suffix in _BESIDE],
                "recurse": bool(database.get("recursive")),
            }
        )
    return searches


def stop_timeout(config: Config) -> int:
    """Seconds that a stop may take: Litestream tries the last sync of one database after the other."""
    last = seconds(config.get("shutdown-sync-timeout", _DEFAULTS_05["shutdown-sync-timeout"])) or 0
    return max(_STOP_LEAST, math.ceil(last * len(config.get("dbs", [])) + _STOP_MARGIN))


def choose(config: Config, wanted: str) -> tuple[str, Config]:
    """Path of the database that is `wanted`, or of the only one, and its entry in litestream.yml.

    Raises ValueError, which names the choice, when there is none or more than one.
    """
    entries = [entry for entry in config.get("dbs") or [] if isinstance(entry, dict)]
    for entry in entries:
        if "path" in entry and (wanted == entry["path"] or (not wanted and len(entries) == 1)):
            return entry["path"], entry
        if "dir" in entry and wanted and posixpath.normpath(wanted) == wanted:
            top = entry["dir"].rstrip("/")
            if posixpath.dirname(wanted) == top or (entry.get("recursive") and wanted.startswith(f"{top}/")):
                return wanted, entry
    known = [
        str(entry["path"]) if "path" in entry else posixpath.join(str(entry["dir"]), str(entry["pattern"]))
        for entry in entries
    ]
    raise ValueError(f"restore_database is '{wanted}': give one of {', '.join(known)}.")


def alone(entry: Config, path: str) -> Config:
    """Entry by which `litestream restore` finds this database: it knows no `dir`, only paths."""
    if "dir" not in entry:
        return entry
    replica = dict(replicas_of(entry)[0])
    below = posixpath.relpath(path, entry["dir"])
    if "url" in replica:
        place, mark, query = replica["url"].partition("?")
        replica["url"] = f"{place.rstrip('/')}/{below}{mark}{query}"
    else:
        replica["path"] = f"{replica['path'].rstrip('/')}/{below}"
    look = {key: entry[key] for key in ("monitor-interval",) if key in entry}
    return {"path": path, **look, "replica": replica}


def meta(entry: Config, path: str) -> tuple[str, str]:
    """Directory and name of Litestream's own files of this database.

    The name is empty for what a path's `meta-path` names: all that is in the directory.
    """
    name = f".{posixpath.basename(path)}-litestream"
    if "dir" not in entry:
        return (str(entry["meta-path"]), "") if "meta-path" in entry else (posixpath.dirname(path), name)
    below = posixpath.dirname(posixpath.relpath(path, entry["dir"]))
    if "meta-dir" in entry:
        return posixpath.join(entry["meta-dir"], below).rstrip("/"), name[1:]
    top = entry["meta-path"] if "meta-path" in entry else entry["dir"]
    return posixpath.join(top, below).rstrip("/"), name
