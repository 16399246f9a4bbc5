"""cloudctl: look at the stand-in for AWS, and change it while devices run."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edge_cloud import answers, settings
from edge_cloud.ledger import Ledger
from edge_cloud.s3errors import STATUS

FIELDS = ("accessKeyId", "secretAccessKey", "sessionToken", "expiration")
S3_FAULTS = {
    "s3-error": "Let S3 refuse a device's requests with --code.",
    "s3-delay": "Let S3 answer a device --seconds late.",
    "s3-reset": "Let S3 reset a device's connection after the request's head.",
}
UNITS = tuple(f"edge-cloud-{name}.service" for name in ("provider", "gate", "s3", "aws"))


def main() -> int:
    """Run one command."""
    arguments = _parser().parse_args()
    config = settings.load()
    ledger = Ledger(config.ledger)
    status: int = arguments.run(arguments, config, ledger)
    return status


def _show(value: object) -> None:
    print(json.dumps(value))


def _init(arguments: argparse.Namespace, config: settings.Settings, ledger: Ledger) -> int:
    ledger.create(config.role_alias, arguments.lifetime)
    return 0


def _status(_arguments: argparse.Namespace, _config: settings.Settings, ledger: Ledger) -> int:
    active = subprocess.run(["systemctl", "is-active", *UNITS], check=False, capture_output=True, text=True)
    _show(
        {
            "units": dict(zip(UNITS, active.stdout.split(), strict=False)),
            "clock_offset_s": round(ledger.now() - time.time(), 1),
            "aliases": ledger.aliases(),
            "certificates": ledger.certificates(),
            "faults": [vars(fault) for fault in ledger.faults()],
        }
    )
    return 0


def _set_lifetime(arguments: argparse.Namespace, config: settings.Settings, ledger: Ledger) -> int:
    ledger.set_lifetime(arguments.alias or config.role_alias, arguments.seconds)
    return 0


def _set_clock(arguments: argparse.Namespace, _config: settings.Settings, ledger: Ledger) -> int:
    ledger.set_clock(arguments.seconds)
    return 0


def _certificates(arguments: argparse.Namespace, _config: settings.Settings, ledger: Ledger) -> int:
    active = arguments.command == "unrevoke"
    if not ledger.set_certificates(arguments.thing, active, arguments.serial):
        print(
            f"cloudctl: no certificate of {arguments.thing} was seen yet; give --serial",
            file=sys.stderr,
        )
        return 1
    return 0


def _attach(arguments: argparse.Namespace, _config: settings.Settings, ledger: Ledger) -> int:
    ledger.set_attached(arguments.thing, arguments.command == "attach")
    return 0


def _expire(arguments: argparse.Namespace, _config: settings.Settings, ledger: Ledger) -> int:
    _show({"expired": ledger.expire(arguments.thing)})
    return 0


def _issued(arguments: argparse.Namespace, _config: settings.Settings, ledger: Ledger) -> int:
    keys = ledger.issued(arguments.thing)
    if arguments.json:
        _show([key.public() for key in keys])
        return 0
    for key in keys:
        lifetime_s = (key.expires_s or 0) - key.issued_ms // 1000
        print(settings.timestamp(key.issued_ms / 1000), key.access_key, f"{lifetime_s} s", key.alias)
    return 0


def _fault(arguments: argparse.Namespace, _config: settings.Settings, ledger: Ledger) -> int:
    given = ("seconds", "bytes", "field", "status", "message", "error_type", "header", "code", "requests")
    options = {name: getattr(arguments, name) for name in given if name in arguments}
    thing = getattr(arguments, "thing", None)
    ledger.add_fault(arguments.name, options, thing, arguments.times)
    return 0


def _heal(_arguments: argparse.Namespace, _config: settings.Settings, ledger: Ledger) -> int:
    ledger.clear_faults()
    ledger.set_clock(0)
    return 0


def _log(arguments: argparse.Namespace, config: settings.Settings, _ledger: Ledger) -> int:
    path = config.log(arguments.name)
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    chosen = [
        record
        for record in records
        if record["at_ms"] >= arguments.since
        and (arguments.thing is None or record.get("thing") == arguments.thing)
        and (not arguments.errors or record.get("error"))
    ]
    for record in chosen[-arguments.last :] if arguments.last else chosen:
        _show(record)
    return 0


def _probe(arguments: argparse.Namespace, config: settings.Settings, ledger: Ledger) -> int:
    """Use one of a thing's keys, and print what S3 says: status and error code."""
    # Slow to load, and no other command needs them.
    from botocore.auth import S3SigV4Auth  # noqa: PLC0415
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415
    from botocore.credentials import Credentials  # noqa: PLC0415
    from botocore.httpsession import URLLib3Session  # noqa: PLC0415

    keys = ledger.issued(arguments.thing)
    if not keys:
        print(f"cloudctl: {arguments.thing} was issued nothing yet", file=sys.stderr)
        return 1
    key = next((key for key in keys if key.access_key == arguments.key), keys[-1])
    prefix = f"{arguments.prefix or arguments.thing}/"
    request = AWSRequest(
        "GET", f"{config.s3_url}/{config.bucket}", params={"list-type": 2, "max-keys": 1, "prefix": prefix}
    )
    S3SigV4Auth(Credentials(key.access_key, key.secret, key.token), "s3", config.region).add_auth(request)
    answer = URLLib3Session(verify=str(config.server_ca), timeout=10).send(request.prepare())
    code = re.search(rb"<Code>(\w+)</Code>", answer.content)
    _show({**key.public(), "status": answer.status_code, "error": code[1].decode() if code else None})
    return 0


def _auditor(_arguments: argparse.Namespace, config: settings.Settings, ledger: Ledger) -> int:
    for name, value in _auditor_environment(config, ledger).items():
        print(f"{name}={value}")
    return 0


def _auditor_environment(config: settings.Settings, ledger: Ledger) -> dict[str, str]:
    key = ledger.auditor()
    assert key is not None
    return {
        "AWS_ACCESS_KEY_ID": key.access_key,
        "AWS_SECRET_ACCESS_KEY": key.secret,
        "AWS_REGION": config.region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "SSL_CERT_FILE": str(config.server_ca),
    }


def _restore(arguments: argparse.Namespace, config: settings.Settings, ledger: Ledger) -> int:
    """Restore a replica with Litestream and the auditor's key; its exit status is ours."""
    replica = {
        "type": "s3",
        "bucket": config.bucket,
        "path": arguments.path,
        "endpoint": config.s3_url,
        "region": config.region,
        "force-path-style": True,
    }
    with tempfile.TemporaryDirectory() as directory:
        # JSON is YAML; the database's own path is only a name here.
        source = Path(directory, "source.db")
        file = Path(directory, "litestream.yml")
        file.write_text(json.dumps({"dbs": [{"path": str(source), "replica": replica}]}))
        words = [arguments.litestream, "restore", "-config", str(file)]
        if arguments.timestamp:
            words += ["-timestamp", arguments.timestamp]
        words += ["-o", arguments.output, str(source)]
        environment = {"PATH": os.environ["PATH"], **_auditor_environment(config, ledger)}
        return subprocess.run(words, env=environment, check=False).returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cloudctl", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Any, text: str, under: Any = commands) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = under.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    init = add("init", _init, "Make the ledger, if there is none.")
    init.add_argument("--lifetime", type=int, required=True, metavar="SECONDS")
    add("status", _status, "Show units, aliases, certificates and active faults, as JSON.")

    lifetime = add("set-lifetime", _set_lifetime, "Let new credentials live so many seconds.")
    lifetime.add_argument("seconds", type=int)
    lifetime.add_argument("--alias", help="a role alias, made if need be; default: the lab's")
    clock = add("set-clock", _set_clock, "Move AWS's clock (provider and S3) off the devices'.")
    clock.add_argument("seconds", type=float)

    for name, text in {
        "revoke": "Make a thing's certificates (all that were seen) inactive.",
        "unrevoke": "Make a thing's certificates active again.",
    }.items():
        command = add(name, _certificates, text)
        command.add_argument("thing")
        command.add_argument("--serial", help="only this one, in upper-case hex as openssl says it")
    add("detach", _attach, "Detach a thing from its certificate.").add_argument("thing")
    add("attach", _attach, "Attach a thing to its certificate again.").add_argument("thing")
    add("expire", _expire, "End a thing's live credentials now.").add_argument("thing")

    issued = add("issued", _issued, "List what a thing was issued, without secrets.")
    issued.add_argument("thing")
    issued.add_argument("--json", action="store_true")

    _add_faults(add("fault", _fault, "Let the provider, or S3, misbehave until healed."), add)
    add("heal", _heal, "End all faults and set AWS's clock right.")

    log = add("log", _log, "Print a request log as JSON lines.")
    log.add_argument("name", choices=("provider", "gate"))
    log.add_argument("--thing")
    log.add_argument("--since", type=int, default=0, metavar="MS", help="milliseconds since 1970")
    log.add_argument("--last", type=int, default=0, metavar="N", help="only the last N")
    log.add_argument("--errors", action="store_true", help="only refused and failed requests")

    add("auditor", _auditor, "Print the environment for reading the whole bucket.")
    probe_ = add("probe", _probe, "List a thing's prefix with the newest key it was issued.")
    probe_.add_argument("thing")
    probe_.add_argument("--key", metavar="ID", help="with this one of its keys instead")
    probe_.add_argument("--prefix", metavar="THING", help="list another thing's prefix instead")
    restore = add("restore", _restore, "Restore a replica with the auditor's key.")
    restore.add_argument("path", help="the replica's path in the bucket, THING/…")
    restore.add_argument("output", help="the file to make")
    restore.add_argument("--timestamp", help="a point in time, RFC 3339")
    restore.add_argument("--litestream", default="/usr/local/bin/litestream", metavar="BINARY")
    return parser


def _add_faults(parser: argparse.ArgumentParser, add: Any) -> None:
    faults = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    texts = (
        {name: f"{row[0]} {row[2]}" for name, row in answers.ERRORS.items()}
        | {
            "status": "Answer with any status.",
            "truncated-body": "Announce the whole body, send half of it, hang up.",
            "oversized-body": "Answer with a body of --bytes and more.",
            "not-json": "Answer 200 with HTML.",
            "missing-field": "Leave a field out.",
            "control-character": "Put a line feed into a field.",
            "expired": "Say that the credentials expire --seconds from now (negative: expired).",
            "date-offset": "Move the Date header, but not the expiration, by --seconds.",
            answers.RESET: "Reset the connection after the request.",
            answers.DELAY: "Answer --seconds late.",
            "untrusted-ca": "Show a server certificate of an unknown CA.",
            "wrong-host": "Show a server certificate for another name.",
        }
        | S3_FAULTS
    )
    commands = {name: add(name, _fault, text, faults) for name, text in texts.items()}
    for name, command in commands.items():
        command.add_argument("--times", type=int, metavar="N", help="only for N requests")
        if name not in answers.TLS_FAULTS:
            command.add_argument("--thing", help="only for this thing")
    status = commands["status"]
    status.add_argument("--status", type=int, required=True)
    status.add_argument("--message", default="Injected by the lab")
    status.add_argument("--error-type", default="InternalFailureException")
    status.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'")
    commands["oversized-body"].add_argument("--bytes", type=int, default=128 * 1024)
    for name in ("missing-field", "control-character"):
        commands[name].add_argument("--field", choices=FIELDS, default="sessionToken")
    for name, default in {
        "expired": -60.0,
        "date-offset": None,
        answers.DELAY: None,
        "s3-delay": None,
    }.items():
        commands[name].add_argument("--seconds", type=float, default=default, required=default is None)
    for name in S3_FAULTS:
        commands[name].add_argument(
            "--requests", choices=("all", "reads", "writes"), default="all", help="only these"
        )
    commands["s3-error"].add_argument("--code", choices=sorted(STATUS), default="ServiceUnavailable")


if __name__ == "__main__":
    sys.exit(main())
