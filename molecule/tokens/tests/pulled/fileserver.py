"""Serves a directory by HTTPS, on the cloud machine, and hangs up after every tenth of an archive."""

import http.server
import ssl
import sys
from pathlib import Path


class Handler(http.server.SimpleHTTPRequestHandler):
    """A static server, with the ranges that the standard library leaves out."""

    def do_GET(self) -> None:
        """Give a file, or a piece of an archive."""
        path = Path(self.translate_path(self.path))
        if path.suffix != ".gz":
            return super().do_GET()
        data = path.read_bytes() if path.is_file() else b""
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if begin >= len(data):
            return self.send_error(416 if data else 404)
        end = min(len(data), begin + len(data) // 10 + 1)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        self.wfile.write(data[begin:end])
        with Path("given").open("a") as given:
            given.write(f"{path.name} {end - begin}\n")
        self.close_connection = True
        return None


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/etc/edge-cloud/tls/server.crt", "/etc/edge-cloud/tls/server.key")
server = http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
