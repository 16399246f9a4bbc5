"""Through a proxy: a tunnel with TLS from end to end, and what each refusal of it is called."""

from __future__ import annotations

import base64
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Device

from edge_rotator import config as configuration
from edge_rotator import doctor, provider
from edge_rotator.errors import RotatorError

LOGIN = "fleet:canary-proxy:9%2f@ word"


class Proxy(socketserver.ThreadingTCPServer):
    """One that reaches this machine only: it relays, or answers with a status; keeps what it was told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.heads: list[str] = []
        self.relayed = b""
        self.status = 200
        self.wanted = LOGIN

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(socketserver.BaseRequestHandler):
    """One connection."""

    server: Proxy

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.request.recv(4096)
        text = head.decode("latin-1")
        self.server.heads.append(text)
        expected = f"Proxy-Authorization: Basic {base64.b64encode(self.server.wanted.encode()).decode()}\r\n"
        status = self.server.status if not self.server.wanted or expected in text else 407
        # What a proxy says of itself is no answer of the provider's.
        own = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: 7000\r\n"
        self.request.sendall(f"HTTP/1.1 {status} No reason\r\n{own}\r\n".encode())
        if status != 200:
            return
        port = int(text.split()[1].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as server:
            ends = {self.request: server, server: self.request}
            while True:
                for end in select.select(list(ends), [], [], 5)[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    self.server.relayed += data
                    ends[end].sendall(data)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def proxied(local: Device, proxy: Proxy, tmp_path: Path) -> Device:
    """A device whose endpoint nobody but the proxy can reach by that name."""
    login = tmp_path / "login"
    login.write_text(LOGIN)
    login.chmod(0o600)
    local.configure(provider={"proxy": proxy.url, "proxy_credentials_file": str(login)})
    return local


def error_of(device: Device) -> dict[str, Any]:
    error: dict[str, Any] = device.state["failure"]["error"]
    return error


def test_it_rotates_by_a_tunnel(proxied: Device, proxy: Proxy) -> None:
    """The provider sees our certificate; the proxy sees where to, its own login, and ciphertext."""
    assert proxied.tick() == 0
    (request,) = proxied.server.requests
    assert request["subject"]["commonName"] == "edge01"
    assert "Proxy-Authorization" not in request["headers"]
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT {proxied.server.endpoint} HTTP/1.1\r\n")
    assert "thing" not in head.lower()
    assert b"sessionToken" not in proxy.relayed
    assert b"edge-litestream" not in proxy.relayed


def test_what_the_proxy_says_of_itself_is_not_the_providers(proxied: Device) -> None:
    """Its Date is of 1994: taken for the provider's, the life time would be 30 years."""
    answer = provider.fetch(configuration.load(str(proxied.config)), "")
    assert answer.date is not None
    assert answer.date > 1e9
    assert answer.retry_after is None


def test_the_servers_own_certificate_still_counts(proxied: Device, pki: Any) -> None:
    proxied.configure(provider={"ca_file": str(pki[1].path)})
    with pytest.raises(RotatorError, match="by way of http://127") as caught:
        provider.fetch(configuration.load(str(proxied.config)), "")
    assert caught.value.kind.name == "tls_server_untrusted"


@pytest.mark.parametrize(
    ("status", "kind"), [(401, "proxy_refused"), (403, "proxy_refused"), (502, "connect"), (503, "connect")]
)
def test_what_it_answers(proxied: Device, proxy: Proxy, status: int, kind: str) -> None:
    proxy.status = status
    with pytest.raises(RotatorError, match=f"the proxy answers {status}") as caught:
        provider.fetch(configuration.load(str(proxied.config)), "")
    assert caught.value.kind.name == kind


def test_a_wrong_password_is_named_and_not_shown(
    proxied: Device, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    proxy.wanted = "fleet:other"
    assert proxied.tick() == 24
    assert "class=proxy_refused" in (said := capfd.readouterr().err) or "proxy_refused" in said
    assert "the proxy answers 407 to CONNECT" in said
    state = (proxied.root / "state/state.json").read_text()
    assert "canary" not in said + state
    assert base64.b64encode(LOGIN.encode()).decode() not in said + state


def test_a_proxy_without_login_is_told_none(proxied: Device, proxy: Proxy) -> None:
    proxied.configure(provider={"proxy_credentials_file": None})
    proxy.wanted = ""
    assert proxied.tick() == 0
    assert "Authorization" not in proxy.heads[0]


def test_who_is_not_there(proxied: Device) -> None:
    for url, kind in (("http://127.0.0.1:1", "connect"), ("http://no-such-proxy.invalid:3128", "dns")):
        proxied.configure(provider={"proxy": url})
        with pytest.raises(RotatorError, match=f"by way of {url}") as caught:
            provider.fetch(configuration.load(str(proxied.config)), "")
        assert caught.value.kind.name == kind


def test_the_environment_changes_nothing(proxied: Device, proxy: Proxy, monkeypatch: Any) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv("no_proxy", "*")
    assert proxied.tick() == 0
    assert len(proxy.heads) == 1
    proxied.configure(provider={"proxy": None, "proxy_credentials_file": None})
    monkeypatch.setenv("https_proxy", proxy.url)
    assert proxied.tick("rotate", "--force") == 0
    assert len(proxy.heads) == 1


def test_systemd_hands_the_login_over(
    proxied: Device, proxy: Proxy, tmp_path: Path, monkeypatch: Any
) -> None:
    """The file itself is root's alone."""
    proxied.configure(provider={"proxy_credentials_file": "/nowhere"})
    handed = tmp_path / "credentials"
    handed.mkdir()
    (handed / "proxy").write_text(LOGIN)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed))
    assert proxied.tick() == 0
    # What the unit hands over where there is no file.
    (handed / "proxy").write_text("\t")
    assert proxied.tick("rotate", "--force") == 69
    assert len(proxy.heads) == 1


@pytest.mark.parametrize("content", ["", "no colon", "a:b\n", "a:\u00e4", "a:" + "b" * 2000])
def test_a_file_that_holds_no_login(proxied: Device, tmp_path: Path, content: str) -> None:
    (tmp_path / "login").write_text(content)
    with pytest.raises(RotatorError, match="USER:PASSWORD"):
        provider.proxy_login(configuration.load(str(proxied.config)))


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("http://u:hush@proxy.test:3128", "(value hidden)"),
        ("u:hush@proxy.test:3128", "(value hidden)"),
        ("https://proxy.test:3128", "'https://proxy.test:3128'"),
        ("http://proxy.test", "'http://proxy.test'"),
        ("http://proxy.test:99999", "'http://proxy.test:99999'"),
        ("http://proxy.test:3128/path", "'http://proxy.test:3128/path'"),
    ],
)
def test_urls_that_are_refused(local: Device, proxy: str, shown: str) -> None:
    local.configure(provider={"proxy": proxy})
    with pytest.raises(RotatorError) as caught:
        configuration.load(str(local.config))
    assert f"provider.proxy = {shown}" in caught.value.detail
    assert "hush" not in caught.value.detail


@pytest.mark.parametrize("proxy", ["http://proxy:3128", "http://192.0.2.1:80", "http://[2001:db8::1]:3128"])
def test_urls_that_are_taken(local: Device, proxy: str) -> None:
    local.configure(provider={"proxy": proxy})
    assert configuration.load(str(local.config)).proxy == proxy


def test_a_login_needs_a_proxy(local: Device) -> None:
    local.configure(provider={"proxy_credentials_file": "/etc/login"})
    with pytest.raises(RotatorError, match=r"provider\.proxy = ''"):
        configuration.load(str(local.config))


def test_doctor_asks_for_the_proxy_where_others_are_asked_for_the_endpoint(proxied: Device) -> None:
    """In a network with a proxy nobody else need resolve the endpoint's name."""
    config = configuration.load(str(proxied.config))
    config.endpoint = "no-such-host.invalid"
    assert doctor._dns(config) == "the proxy 127.0.0.1 is 127.0.0.1"


def test_doctor_without_root_does_not_blame_the_proxy(proxied: Device, proxy: Proxy) -> None:
    config = configuration.load(str(proxied.config))
    config.replicas = [["https://localhost:1/bucket", "x"]]
    for check in (doctor._tls, doctor._s3, lambda config: doctor._provider(config, None)):
        with pytest.raises(doctor.SkippedError, match="needs --login"):
            check(config)
    assert proxy.heads == []
    config.proxy_login = LOGIN
    assert doctor._tls(config) == f"{config.endpoint} proved itself"
    config.proxy_login = "fleet:wrong"
    with pytest.raises(RotatorError, match="407"):
        doctor._tls(config)
