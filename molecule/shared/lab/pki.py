"""The lab's keys: certificate authorities, server certificates, one ssh key."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.settings import Machine, Paths
from lab.shell import run

_DAYS = "3650"


def ensure(paths: Paths, machines: dict[str, Machine]) -> None:
    """Make whatever key or certificate is missing, and write the ssh_config."""
    for directory in (paths.pki, paths.ssh):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    _authority(paths.pki, "server-ca", "/CN=Edge lab server CA")
    _authority(paths.pki, "fleet-ca", "/CN=Edge lab fleet CA")
    # As in certificates that AWS signs, less the last word, for which openssl has no room.
    _authority(paths.pki, "aws-ca", "/OU=Amazon Web Services O=Amazon.com Inc. L=Seattle ST=Washington")
    # Nobody trusts this one: it signs what a device must refuse.
    _authority(paths.pki, "rogue-ca", "/CN=Edge lab rogue CA")
    names = [name for machine in machines.values() for name in machine.names]
    _server_certificate(paths.pki, "server", "server-ca", names)
    _server_certificate(paths.pki, "rogue", "rogue-ca", names)
    _server_certificate(paths.pki, "wrong-host", "server-ca", ["elsewhere.lab.test"])
    client_key = paths.ssh / "id_ed25519"
    if not client_key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "edge-lab", "-f", client_key)
    write_ssh_config(paths, machines)


def write_ssh_config(paths: Paths, machines: dict[str, Machine]) -> None:
    """Write the one ssh_config that Ansible, testinfra and people use."""
    blocks = [
        f"Host {machine.name} {machine.address}\n  HostName {machine.address}\n"
        for machine in machines.values()
    ]
    common = f"""\
Host *
  User admin
  IdentityFile {paths.ssh}/id_ed25519
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ConnectTimeout 10
  ServerAliveInterval 5
  ServerAliveCountMax 3
  ControlMaster auto
  ControlPath {paths.ssh}/%C
  ControlPersist 60s
"""
    paths.ssh_config.write_text("\n".join([*blocks, common]))


def _authority(pki: Path, name: str, subject: str) -> None:
    if (pki / f"{name}.crt").exists():
        return
    with _scratch(pki) as scratch:
        _key(scratch / "key")
        run(
            *("openssl", "req", "-x509", "-new", "-sha256", "-days", _DAYS),
            *("-key", scratch / "key", "-out", scratch / "crt", "-subj", subject),
            *("-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )
        _keep(scratch, pki, name)


def _server_certificate(pki: Path, name: str, authority: str, hosts: list[str]) -> None:
    if (pki / f"{name}.crt").exists():
        return
    with _scratch(pki) as scratch:
        _key(scratch / "key")
        (scratch / "extensions").write_text(
            "basicConstraints=critical,CA:FALSE\n"
            "keyUsage=critical,digitalSignature\n"
            "extendedKeyUsage=serverAuth\n"
            # Python 3.13 refuses a chain without these; OpenSSL adds them to the authority by itself.
            "subjectKeyIdentifier=hash\n"
            "authorityKeyIdentifier=keyid\n"
            f"subjectAltName={','.join(f'DNS:{host}' for host in hosts)}\n"
        )
        run(
            *("openssl", "req", "-new", "-sha256", "-key", scratch / "key"),
            *("-subj", f"/CN={hosts[0]}", "-out", scratch / "csr"),
        )
        run(
            *("openssl", "x509", "-req", "-sha256", "-days", _DAYS, "-in", scratch / "csr"),
            *("-CA", pki / f"{authority}.crt", "-CAkey", pki / f"{authority}.key"),
            *("-extfile", scratch / "extensions", "-out", scratch / "crt"),
        )
        _keep(scratch, pki, name)


def _key(target: Path) -> None:
    run(
        *("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-out", target),
    )


@contextmanager
def _scratch(pki: Path) -> Iterator[Path]:
    """Yield a directory on the same file system that is gone afterwards, whatever happens."""
    with tempfile.TemporaryDirectory(dir=pki) as directory:
        yield Path(directory)


def _keep(scratch: Path, pki: Path, name: str) -> None:
    """Move a finished pair into place, the certificate last: it is what says "done"."""
    (scratch / "key").rename(pki / f"{name}.key")
    (scratch / "crt").rename(pki / f"{name}.crt")
