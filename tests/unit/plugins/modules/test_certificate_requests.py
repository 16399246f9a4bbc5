"""certificate_requests: a directory of requests is read, or refused as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.aws_iot import Run, request


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def test_every_request_is_read(tmp_path: Path, run: Run) -> None:
    for thing in ("edge-2", "edge-1"):
        (tmp_path / f"{thing}.csr").write_text(request(key(), thing))
    (tmp_path / "README").write_text("no request")
    done = run(directory=str(tmp_path))
    assert [one["thing"] for one in done["requests"]] == ["edge-1", "edge-2"]
    assert done["requests"][0]["request"] == (tmp_path / "edge-1.csr").read_text()
    assert "BEGIN PUBLIC KEY" in done["requests"][0]["public_key"]


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path, run: Run) -> None:
    shared = key()
    for thing, text in {
        "edge-1": request(shared, "edge-1"),
        "edge-2": request(shared, "edge-2"),
        "edge-3": request(key(), "edge-4"),
        "edge 5": request(key(), "edge 5"),
        "edge-6": "nothing",
        "edge-7": request(key(), "edge-7")[:300],
    }.items():
        (tmp_path / f"{thing}.csr").write_text(text)
    said = run(directory=str(tmp_path))["msg"]
    for words in (
        "5 requests in",
        "edge-2.csr: its key is also that of edge-1.csr",
        "edge-3.csr: the request asks for the subject 'CN=edge-4', instead of 'CN=edge-3' alone",
        "edge 5.csr: the name is not",
        "edge-6.csr: the request or the token's public key cannot be read",
        "edge-7.csr: ",
    ):
        assert words in said, said


@pytest.mark.parametrize("exists", [True, False])
def test_no_request_is_an_error(exists: bool, tmp_path: Path, run: Run) -> None:
    assert "no request THING.csr" in run(directory=str(tmp_path if exists else tmp_path / "no"))["msg"]
