"""Servers on the cloud machine that a device must not talk to, and the attempts to make it.

A request that reaches one of them is a request whose sender was deceived.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from experiment import observe
from lab.settings import paths

ROGUE, WRONG_HOST, OLD_TLS = 8443, 8444, 8445
NAME, ELSEWHERE = "credentials.lab.test", "elsewhere.lab.test"
S3_NAME = "s3.lab.test"
PLACE = "/run/edge-impostor"

# On the cloud machine: one line per request that came through, the port; negative where a client hung up
# on TLS.
_SERVER = """
import json, ssl, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.server.server_port, flush=True)
        names = ("accessKeyId", "secretAccessKey", "sessionToken")
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 900))
        found = {**dict.fromkeys(names, "FALSEFALSEFALSEFALSE"), "expiration": until}
        body = json.dumps({"credentials": found})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_HEAD = do_PUT = do_POST = do_GET

    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    daemon_threads = True

    def finish_request(self, request, address):
        request.settimeout(10)
        try:
            super().finish_request(self.context.wrap_socket(request, server_side=True), address)
        except ssl.SSLError:
            print(-self.server_port, flush=True)
        except OSError:
            pass

for port, certificate in ((8443, "rogue"), (8444, "wrong-host"), (8445, "server")):
    server = Server(("0.0.0.0", port), Handler)
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    base = "/etc/edge-cloud/tls/" + certificate
    server.context.load_cert_chain(base + ".crt", base + ".key")
    if port == 8445:
        server.context.set_ciphers("ALL:@SECLEVEL=0")
        server.context.minimum_version = ssl.TLSVersion.TLSv1
        server.context.maximum_version = ssl.TLSVersion.TLSv1_1
    threading.Thread(target=server.serve_forever, daemon=True).start()
time.sleep(300)
"""


def requests() -> list[int]:
    """List the ports of the requests that came through since the servers began."""
    return [port for port in _seen() if port > 0]


def _seen() -> list[int]:
    return [int(port) for port in observe.run(observe.CLOUD, f"cat {PLACE}.log").split()]


@contextmanager
def servers() -> Iterator[None]:
    """Run the false servers for at most five minutes."""
    stop = f"sudo systemctl stop edge-impostor.service; sudo rm -f {PLACE}.log {PLACE}.py"
    observe.run(
        observe.CLOUD, f"{stop}; printf %s {shlex.quote(_SERVER)} | sudo tee {PLACE}.py >/dev/null", False
    )
    try:
        observe.run(
            observe.CLOUD,
            "sudo systemd-run --quiet --collect --unit=edge-impostor --property=StandardError=null "
            f"--property=StandardOutput=file:{PLACE}.log python3 -I {PLACE}.py; "
            f"for n in $(seq 50); do ss -ltn | grep -q :{OLD_TLS} && break; sleep 0.1; done",
        )
        yield
    finally:
        observe.run(observe.CLOUD, stop, False)


@contextmanager
def place(host: Any) -> Iterator[None]:
    """Make a directory on the device for what the attempts need: a hosts file with the wrong host."""
    cloud = host.check_output(f"getent hosts {NAME}").split()[0]
    rogue = (paths().pki / "rogue-ca.crt").read_text()
    try:
        host.check_output(
            f"rm -rf {PLACE}; mkdir -m 755 {PLACE}; mkdir {PLACE}/state; chown edge-rotator: {PLACE}/state;"
            f"{{ cat /etc/hosts; echo {cloud} {ELSEWHERE}; }} > {PLACE}/hosts;"
            f"printf %s {shlex.quote(rogue)} > {PLACE}/rogue.pem"
        )
        yield
    finally:
        host.check_output(f"rm -r {PLACE}")


def rotate(host: Any, endpoint: str, ca: str = "") -> str:
    """Have the rotator ask this endpoint by its own backend, in a unit as its own; return what it said.

    Its state, and everything it would write, is in a place of its own.
    """
    text = host.check_output("cat /etc/edge-rotator/config.toml")
    changed = {"endpoint": endpoint, "state_directory": f"{PLACE}/state", "directory": f"{PLACE}/state"}
    if ca:
        changed["ca_file"] = ca
    for key, value in changed.items():
        text = re.sub(rf'^{key} = ".*"$', f'{key} = "{value}"', text, flags=re.MULTILINE)
    host.check_output(f"rm -f {PLACE}/state/*; printf %s {shlex.quote(text)} > {PLACE}/config.toml")
    pin = "" if 'backend = "file"' in text else "--property=LoadCredential=pin:/etc/edge-token/pin "
    done = host.run(
        "systemd-run --quiet --wait --pipe --collect --property=User=edge-rotator "
        "--property=RuntimeMaxSec=60 "
        f"{pin}--property=BindReadOnlyPaths={PLACE}/hosts:/etc/hosts "
        f"edge-rotator --config {PLACE}/config.toml rotate --dry-run"
    )
    return str(done.stdout + done.stderr)


# Litestream's own environment and user, with a configuration and perhaps a CA of ours.
_LITESTREAM = """
import os, pwd, sys
pid, config, ca = sys.argv[1:]
pairs = open(f"/proc/{pid}/environ", "rb").read().decode().strip("\\0").split("\\0")
environment = dict(pair.split("=", 1) for pair in pairs)
if ca:
    environment["SSL_CERT_FILE"] = ca
user = pwd.getpwnam("litestream")
os.initgroups("litestream", user.pw_gid); os.setgid(user.pw_gid); os.setuid(user.pw_uid)
command = ["litestream", "ltx", "-config", config, "/var/lib/sample-app/sample.db"]
os.execve("/usr/local/bin/litestream", command, environment)
"""


def look(host: Any, endpoint: str, ca: str = "") -> None:
    """Have Litestream ask this S3 for a list, with its own environment.

    It retries what fails, and does not say why.
    """
    pid = host.check_output("systemctl show --property=MainPID --value litestream.service")
    host.check_output(
        f"sed 's#endpoint: .*#endpoint: https://{endpoint}#' /etc/litestream.yml > {PLACE}/litestream.yml"
    )
    host.run(
        f"unshare --mount sh -c 'mount --bind {PLACE}/hosts /etc/hosts && "
        'exec timeout 5 python3 -I -c "$0" "$@"\' '
        f"{shlex.quote(_LITESTREAM)} {pid} {PLACE}/litestream.yml '{ca}'"
    )


def assert_provider_refused(host: Any) -> None:
    """Check that no false provider is sent a request by this device's backend.

    The loosened attempts get through, which proves the rest.
    """
    with servers(), place(host):
        for port, words in (
            (ROGUE, "tls_server_untrusted"),
            (WRONG_HOST, "tls_host_mismatch"),
            (OLD_TLS, "tls"),
        ):
            said = rotate(host, f"{NAME}:{port}")
            assert f"error={words}" in said, said
        assert requests() == []
        assert "event=dry_run" in rotate(host, f"{NAME}:{ROGUE}", f"{PLACE}/rogue.pem")
        assert "event=dry_run" in rotate(host, f"{ELSEWHERE}:{WRONG_HOST}")
        assert requests() == [ROGUE, WRONG_HOST]
        _assert_old_tls(host)


def assert_s3_refused(host: Any) -> None:
    """Check the same of Litestream and a false S3."""
    with servers(), place(host):
        for port in (ROGUE, WRONG_HOST, OLD_TLS):
            look(host, f"{S3_NAME}:{port}")
        assert set(_seen()) == {-ROGUE, -WRONG_HOST, -OLD_TLS}
        look(host, f"{S3_NAME}:{ROGUE}", f"{PLACE}/rogue.pem")
        look(host, f"{ELSEWHERE}:{WRONG_HOST}")
        assert set(requests()) == {ROGUE, WRONG_HOST}
        _assert_old_tls(host)


def _assert_old_tls(host: Any) -> None:
    """Check that a client that does not mind gets through to the one that speaks TLS 1.1."""
    asked = (
        r"printf 'GET / HTTP/1.0\r\n\r\n' | openssl s_client -quiet -tls1_1 -cipher ALL:@SECLEVEL=0 -connect"
    )
    host.run(f"{asked} {NAME}:{OLD_TLS}")
    assert OLD_TLS in requests()
