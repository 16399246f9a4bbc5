"""moto as AWS for other processes: a server on loopback that hands each request to the moto of this one."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator
from typing import Any

import requests
from moto import mock_aws

from tests.unit import models_once  # noqa: F401 - for what it does


class Door(http.server.BaseHTTPRequestHandler):
    """Hands a request on as if it had been sent to AWS."""

    protocol_version = "HTTP/1.1"

    def handle_one(self) -> None:
        """Pass one request on, and its answer back; the signature says for which service and region it is."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", self.headers.get("Authorization", ""))
        region, service = (scope[1], scope[2]) if scope else ("us-east-1", "s3")
        url = f"https://{service}.{region}.amazonaws.com{self.path}"
        answer = requests.request(self.command, url, headers=headers, data=body, timeout=30)
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in {"content-length", "transfer-encoding", "connection", "content-encoding"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = handle_one  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def aws() -> Iterator[str]:
    """Serve an empty account; the URL is the endpoint of every service."""
    # As AWS does, moto names a certificate by the hash of its DER then.
    with mock_aws(config={"iot": {"use_valid_cert": True}}):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
