"""Behind a proxy that asks for a password: the only way out, and a password that nobody else sees."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import HOSTS

from experiment import observe
from experiment.phases import assert_lossless, play, wait_for

pytestmark = pytest.mark.timeout(600)  # two converges, on a busy host

USER, PASSWORD = "fleet", "hush-7_unheard.of-92641"  # signs that tinyproxy takes
CLOUD, PROXY = "10.83.0.10", "10.83.0.110"
URL = f"http://{PROXY}:3128"
FILE, APT_FILE = "/etc/edge-proxy/credentials", "/etc/apt/auth.conf.d/edge-proxy.conf"
CONFIGURATION = f"""
User tinyproxy
Group tinyproxy
Port 3128
Listen {PROXY}
Timeout 600
Allow 10.83.0.0/24
BasicAuth {USER} {PASSWORD}
LogLevel Connect
"""
SET_UP = f"""
set -e
ip address replace {PROXY}/24 dev host0
printf %s {{}} | base64 -d | sudo tee /etc/tinyproxy/tinyproxy.conf >/dev/null
systemctl restart tinyproxy.service
"""
# What must not be found, on tmpfs: in clear, and as it goes to the proxy. Of the file, not of an argument.
NEEDLES = f"""
import base64, os
os.umask(0o077)
os.makedirs("/run/needle", exist_ok=True)
login = open("{FILE}").read()
open("/run/needle/clear", "w").write(login.partition(":")[2])
open("/run/needle/basic", "w").write(base64.b64encode(login.encode()).decode())
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Put both devices behind the proxy, their way to the cloud cut; what Ansible said of it.

    At the end they are as before, and nothing of the proxy is left on them.
    """
    text = base64.b64encode(CONFIGURATION.encode()).decode()
    observe.run("cloud01", ["sudo", "sh", "-c", SET_UP.format(text)])
    file = tmp_path_factory.mktemp("vault") / "proxy.json"
    file.write_text(
        json.dumps({"edge_rotator_proxy": URL, "edge_rotator_proxy_credentials": f"{USER}:{PASSWORD}"})
    )
    try:
        for name in HOSTS:
            observe.run(name, f"sudo ip route replace unreachable {CLOUD}")
        done = play("site", options=("-vvv", "--diff", f"--extra-vars=@{file}"))
        assert done.code == 0, done.text[-3000:]
        yield done.text
    finally:
        for name in HOSTS:
            observe.run(name, f"sudo ip route delete unreachable {CLOUD}")
    done = play("site")
    assert done.code == 0, done.text[-3000:]
    for name in HOSTS:
        left = observe.run(name, "sudo grep -rls edge-proxy /etc; sudo ls -d /etc/edge-proxy", check=False)
        assert left == ""


@pytest.fixture(autouse=True)
def _needles(host: Any, said: str) -> Iterator[None]:
    host.check_output("python3 -I -c %s", NEEDLES)
    yield
    host.check_output("rm -r /run/needle")


def found(host: Any, command: str) -> bool:
    """Whether the password stands in the output of a command."""
    return bool(host.run(f"{command} | grep -aqFf /run/needle/clear -f /run/needle/basic").rc == 0)


def test_there_is_no_other_way(host: Any) -> None:
    """Guard: without the proxy neither provider nor S3 is reached."""
    code = "import socket; socket.create_connection((%r, %d), 3)"
    for name, port in (("credentials.lab.test", 443), ("s3.lab.test", 9000)):
        assert host.run("python3 -I -c %s", code % (name, port)).rc != 0


def test_it_rotates_and_replicates(host: Any, name: str) -> None:
    since = observe.now(name)
    host.check_output("systemctl start edge-rotator-force.service")
    assert wait_for(lambda: observe.events(name, "rotated", since))
    assert_lossless(host, name)
    done = wait_for(lambda: (tried := host.run("edge-rotator doctor --login")).rc == 0 and tried, 30)
    assert "the proxy 10.83.0.110 is" in done.stdout


def test_doctor_without_root_blames_nobody(host: Any) -> None:
    done = host.run("runuser -u edge-rotator -- edge-rotator doctor")
    assert done.rc == 0, done.stdout
    assert "needs --login: root alone reads what the proxy asks for" in done.stdout


def test_apt_goes_by_it(host: Any) -> None:
    """As root it reads the password, and asks as `_apt`. The lab's control plane is a web server like any."""
    fetch = f"/usr/lib/apt/apt-helper download-file http://{CLOUD}:5000/moto-api/ /tmp/fetched"
    assert host.run(fetch).rc == 0
    host.check_output("rm /tmp/fetched")
    without = host.run(f"{fetch} -o Dir::Etc::netrcparts=/nowhere")
    assert without.rc != 0
    assert "407" in without.stdout + without.stderr


def test_the_password_is_in_two_files_of_root(host: Any) -> None:
    assert found(host, f"cat {FILE}"), "the search finds what is there"
    for path in (FILE, APT_FILE):
        file = host.file(path)
        assert (file.user, file.group, file.mode) == ("root", "root", 0o600)
    roots = "/etc /home /opt /root /srv /tmp /usr/local /var"
    kept = f"! -path {FILE} ! -path {APT_FILE}"
    assert not found(host, f"find {roots} -xdev -type f {kept} -print0 | xargs -0 cat 2>/dev/null")
    assert not found(host, "find /run /dev/shm -type f -perm -o=r -print0 | xargs -0 cat 2>/dev/null")


def test_the_password_is_in_nobodys_sight(host: Any) -> None:
    """Litestream's own environment has it, for its user and root, and no other process's."""
    assert not found(host, "journalctl --no-pager --output=export")
    assert not found(
        host, "systemctl show --all edge-rotator.service edge-rotator-force.service litestream.service"
    )
    pid = host.check_output("systemctl show --property=MainPID --value litestream.service")
    assert found(host, f"cat /proc/{pid}/environ"), "the search finds what is there"
    # In environment mode a rotation restarts Litestream, so it is told by its user.
    forced = "systemctl start edge-rotator-force.service"
    paths = r"\( -printf '%p/cmdline ' -user litestream -o -printf '%p/environ ' \)"
    find = f"find /proc -maxdepth 1 -name '[0-9]*' {paths}"
    watch = f"for n in $(seq 40); do {find} | xargs cat 2>/dev/null; done"
    assert not found(host, f"{{ {forced} & {watch}; wait; }}")


def test_ansible_says_nothing_of_it(said: str) -> None:
    assert "no_log: true" in said
    assert PASSWORD not in said
    assert base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() not in said


def test_a_wrong_password_is_named(host: Any, name: str) -> None:
    """Permanent: asked again every 15 minutes, and as soon as the file changes."""
    since = observe.now(name)
    host.check_output(f"cp -p {FILE} {FILE}.kept && printf fleet:wrong > {FILE}")
    try:
        failed = wait_for(lambda: observe.events(name, "failed", since), 30)
        assert failed[0].fields["error"] == "proxy_refused"
        shown = host.run("runuser -u edge-rotator -- edge-rotator status").stdout
        # Where 407 is meant, tinyproxy says 401.
        assert re.search("the proxy answers 40[17] to CONNECT", " ".join(shown.split())), shown
        assert "edge_rotator_proxy_credentials" in shown
    finally:
        host.check_output(f"mv {FILE}.kept {FILE}")
    assert wait_for(lambda: observe.events(name, "rotated", since), 30)
