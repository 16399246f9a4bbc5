"""A signed request of the lab's own, to see what an issued key is still good for."""

import http.client
import re
import ssl
import time

from edge_cloud import sigv4
from edge_cloud.ledger import Key
from edge_cloud.settings import Settings

_CODE = re.compile(rb"<Code>(\w+)</Code>")


def probe(config: Settings, key: Key, thing: str, now_s: float) -> tuple[int, str | None]:
    """List a thing's prefix with `key`; return the status and S3's error code, if any."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    headers = {
        "host": f"{config.s3_host}:{config.s3_port}",
        "x-amz-content-sha256": sigv4.UNSIGNED,
        "x-amz-date": stamp,
        **({"x-amz-security-token": key.token} if key.token else {}),
    }
    path, query = f"/{config.bucket}", f"list-type=2&max-keys=1&prefix={thing}%2F"
    request = sigv4.Request("GET", path, query, list(headers.items()))
    claim = sigv4.Authorization(key.access_key, stamp[:8], config.region, "s3", tuple(sorted(headers)), "")
    headers["authorization"] = (
        f"{sigv4.ALGORITHM} Credential={key.access_key}/{claim.scope}, "
        f"SignedHeaders={';'.join(claim.signed)}, "
        f"Signature={sigv4.signature(request, claim, key.secret)}"
    )
    context = ssl.create_default_context(cafile=str(config.server_ca))
    connection = http.client.HTTPSConnection(config.s3_host, config.s3_port, timeout=10, context=context)
    try:
        connection.request("GET", f"{path}?{query}", headers=headers)
        answer = connection.getresponse()
        code = _CODE.search(answer.read())
    finally:
        connection.close()
    return answer.status, code[1].decode() if code else None
