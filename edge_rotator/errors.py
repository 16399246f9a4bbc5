"""The one table of what can go wrong: name for machines, exit code, retry policy, fix. And the journal.

An entry is data; raise it with `RotatorError("name", "what was seen")`. Neither a name nor a detail
ever holds a secret: callers pass paths, labels, numbers and the provider's own message.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

TRANSIENT = "transient"  # retried within 1, 2, 4 … minutes, later if Retry-After says so
PERMANENT = "permanent"  # somebody must fix it: at most four attempts an hour
LATCH = "latch"  # no attempt at all until the PIN file changes
NONE = "none"  # nothing was asked of provider or token: the next tick may try again

ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6  # priorities of the journal


# What operators may run, to the letter.
FORCE = "sudo systemctl --no-pager start edge-rotator-force.service"
RESTART = "sudo systemctl --no-pager restart litestream.service"
STATUS = "sudo -u edge-rotator /usr/local/bin/edge-rotator status"
_DOCTOR = "sudo -u edge-rotator /usr/local/bin/edge-rotator doctor"
_LITESTREAM = "sudo systemctl --no-pager status litestream.service"


class Kind(NamedTuple):
    """One class of error."""

    name: str
    exit_code: int
    retry: str
    fix: str

    @property
    def advice(self) -> str:
        """The fix, and how to end the wait of what somebody has to fix."""
        return f"{self.fix}. After repairing: `{FORCE}`" if self.retry == PERMANENT else self.fix


# Class, exit code, retry and fix. A blank at the beginning of a line: the fix goes on.
# pin_locked is no latch: a locked token compares no PIN, so that a try costs nothing, and a TPM's lock ends.
_TABLE = f"""\
internal_error            1  permanent  a fault in edge-rotator: report it with this line
config_invalid            3  none       correct the named key in the configuration file
wrong_user                4  none       `{FORCE}` is given the PIN
interrupted               5  transient  the run was killed or the power failed; it is retried
busy                     75  none       another run holds the lock; try again in a minute
lock_stuck               76  none       nothing rotates while the named process has the lock: as root, `kill
                                        -CONT` it if it is stopped, else `kill -KILL` it
timer_stopped            77  none       `sudo systemctl --no-pager start edge-rotator.timer`; where it is
                                        disabled, `sudo systemctl --no-pager enable edge-rotator.timer`; where
                                        that fails, converge
unit_broken              78  none       `sudo systemctl --no-pager status edge-rotator.service` says why: /run
                                        without room or inodes (`df -h /run`, `df -i /run`)? A unit that was
                                        changed: converge
dns                      10  transient  check the network and DNS, and the named host for a typo
connect                  11  transient  check the network, and that the named host and port are let out
timeout                  12  transient  the network is slow or drops packets; check the uplink
connection_lost          13  transient  the peer hung up; check for a middlebox
throttled                14  transient  the provider limits the account: ask AWS for a higher quota, or let
                                        credentials live longer
server_error             15  transient  the provider has a fault; nothing to fix here
tls_server_untrusted     20  permanent  provider.ca_file must hold the CA of the endpoint (Amazon Root CA 1 to
                                        4); something may be intercepting TLS
tls_host_mismatch        21  permanent  provider.endpoint is not the name in the server's certificate: take it
                                        from `aws iot describe-endpoint --endpoint-type
                                        iot:CredentialProvider`
tls_client_refused       22  permanent  the endpoint refused our certificate: it has expired, or AWS does not
                                        know it or has it inactive (as certificate_inactive: not by hand);
                                        check the clock
tls_failed               23  transient  the TLS handshake failed; run `{_DOCTOR}`
proxy_refused            24  permanent  the proxy let nothing through: 401 and 407 ask for other credentials
                                        (edge_rotator_proxy_credentials), any other number for a rule of the
                                        proxy that admits the named host and port
thing_not_attached       30  permanent  attach the thing to the certificate (aws iot attach-thing-principal),
                                        or correct provider.thing_name
policy_denied            31  permanent  the IoT policy of the certificate must allow
                                        iot:AssumeRoleWithCertificate on the role alias
certificate_inactive     32  permanent  somebody made it inactive: was this device declared lost, or replaced
                                        by one that writes now? Do not activate it by hand:
                                        edge_litestream.appliance.enroll does, and refuses both. Else check
                                        account, region and provider.endpoint
role_alias_missing       33  permanent  create the role alias or correct its name
role_not_assumable       34  permanent  the role must exist and trust credentials.iot.amazonaws.com (a new
                                        role takes minutes to be seen)
duration_exceeds_role    35  permanent  the alias' credentialDurationSeconds exceeds the role's
                                        MaxSessionDuration: lower one or raise the other
provider_refused         36  permanent  see the provider's message and its documentation
answer_truncated         40  transient  the answer broke off; the network is unstable
answer_oversized         41  permanent  this is not the credential provider's answer
answer_not_json          42  permanent  this is not the credential provider's answer
answer_field_missing     43  permanent  this is not the credential provider's answer
answer_control_character 44  permanent  the answer holds a character no credential has; something tampers with
                                        it
answer_expired           45  permanent  the provider hands out expired credentials
answer_short_lived       46  permanent  the provider's credentials live shorter than those held, or far
                                        shorter than schedule.expected_lifetime: check the role alias'
                                        duration
clock_wrong              50  transient  check `timedatectl`: the clock must be synchronised (no RTC? allow NTP
                                        out)
backend_unusable         60  transient  the program does not fit this system: unless an upgrade of Debian is
                                        under way, run edge_litestream.appliance.site against this device
module_missing           61  permanent  install the PKCS#11 module or correct token.module
token_absent             62  transient  no token has the label token.label: is the chip wired, the store
                                        readable?
key_missing              63  permanent  the token holds no key with the label token.key_label: enroll the
                                        device
key_mismatch             64  permanent  provider.certificate_file belongs to another key: enroll the device
                                        again
pin_refused              65  latch      write the right PIN into token.pin_file; no login is tried until that
                                        file changes
pin_locked               66  permanent  a TPM unlocks itself in time; any other token: unlock it as its
                                        security officer
pin_unreadable           67  permanent  the PIN file must exist, hold the PIN and nothing else (no newline at
                                        its end)
token_failed             68  permanent  run `sudo /usr/local/bin/edge-rotator doctor --login` (it uses one PIN
                                        try)
file_unreadable          69  permanent  the named file must exist and be readable
write_failed             70  transient  the directory must exist, be ours and have room
restart_failed           71  none       check `{_LITESTREAM}`; if sudo refuses, converge:
                                        /etc/sudoers.d/edge-rotator is missing or was changed
litestream_silent        73  none       is it running? `{_LITESTREAM}`
replication_stalled      74  none       `sudo journalctl --no-pager --lines=200 --unit=litestream.service`
                                        says why
s3_refused               79  none       S3's own words say why: the role's policy, the bucket's own policy
                                        ("resource-based"), a KMS key, the path, or the clock
state_failed             72  none       the state directory must exist, be ours and have room
"""
KINDS: dict[str, Kind] = {}
for _line in _TABLE.replace("\n" + " " * 40, " ").splitlines():
    _name, _code, _retry, _fix = _line.split(maxsplit=3)
    KINDS[_name] = Kind(_name, int(_code), _retry, _fix)


def place_of(exc: BaseException) -> str:
    """Type and innermost place of an exception, without its text."""
    trace = exc.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if not trace:
        return type(exc).__name__
    name = trace.tb_frame.f_code.co_filename.rpartition("/")[2]
    return f"{type(exc).__name__} at {name}:{trace.tb_lineno}"


class RotatorError(Exception):
    """A known error. `detail` says what was seen; `retry_after` is what the provider asked (s)."""

    def __init__(self, name: str, detail: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{name}: {detail}" if detail else name)
        self.kind = KINDS[name]
        self.detail = detail
        self.retry_after = retry_after


def _quote(value: object) -> str:
    """Render one value: bare if it is one safe word, else quoted; control characters escaped."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}"
    text = str(value)
    if text and all(c.isalnum() or c in "-_./:+@," for c in text):
        return text
    body = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in body) + '"'


def plain(text: str) -> str:
    """Replace by blanks what would act on a terminal: the service's user chooses parts of what root reads."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def event(name: str, level: int = INFO, **fields: object) -> None:
    """Write one line, `event=NAME key=value …`, to stderr; fields that are None are left out.

    Under systemd ($JOURNAL_STREAM is set) it starts with its priority, so that `journalctl -p warning`
    finds it.
    """
    prefix = f"<{level}>" if os.environ.get("JOURNAL_STREAM") else ""
    words = [f"event={name}"]
    words += [f"{key}={_quote(value)}" for key, value in fields.items() if value is not None]
    # A closed stderr must not stop a rotation.
    try:
        sys.stderr.write(prefix + " ".join(words) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return
