"""The same request by AWS' own runtime: `awscrt_fetch.py HOST PORT CA CERTIFICATE MODULE PIN`."""

import sys

from awscrt import http, io

TIMEOUT = 10  # s


def main() -> None:
    """Ask once; exit 0 if the answer is 200."""
    host, port, ca, certificate, module, pin_file = sys.argv[1:]
    with open(pin_file) as file:  # noqa: PTH123
        pin = file.read()
    options = io.TlsContextOptions.create_client_with_mtls_pkcs11(
        pkcs11_lib=io.Pkcs11Lib(file=module),
        user_pin=pin,
        token_label="edge",
        private_key_label="device",
        cert_file_path=certificate,
    )
    options.override_default_trust_store_from_path(None, ca)
    tls = io.ClientTlsContext(options).new_connection_options()
    tls.set_server_name(host)
    group = io.EventLoopGroup(1)
    bootstrap = io.ClientBootstrap(group, io.DefaultHostResolver(group))
    connection = http.HttpClientConnection.new(
        host_name=host, port=int(port), bootstrap=bootstrap, tls_connection_options=tls
    ).result(TIMEOUT)
    headers = http.HttpHeaders([("host", host), ("x-amzn-iot-thingname", "edge01")])
    request = http.HttpRequest("GET", "/role-aliases/edge-litestream/credentials", headers)
    status: list[int] = []
    body = bytearray()
    stream = connection.request(
        request,
        lambda http_stream, status_code, headers, **_: status.append(status_code),
        lambda http_stream, chunk, **_: body.extend(chunk),
    )
    stream.activate()
    stream.completion_future.result(TIMEOUT)
    sys.exit(status != [200] or b"sessionToken" not in body)


if __name__ == "__main__":
    main()
