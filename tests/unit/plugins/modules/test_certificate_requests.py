"""certificate_requests: a directory of requests is read, or refused as a whole."""

from __future__ import annotations

import os
import stat
import tempfile
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


@pytest.mark.timeout(20)
def test_what_is_no_file_is_neither_followed_nor_waited_for(tmp_path: Path, run: Run) -> None:
    """A factory's directory is written by others: a pipe would hang, a link would read something else."""
    elsewhere = tmp_path / "elsewhere.pem"
    elsewhere.write_text(request(key(), "edge-1"))
    (tmp_path / "edge-1.csr").symlink_to(elsewhere)
    os.mkfifo(tmp_path / "edge-2.csr")
    (tmp_path / "edge-3.csr").mkdir()
    (tmp_path / "edge-4.csr").symlink_to("/dev/zero")
    # Half as many characters as bytes.
    (tmp_path / "edge-5.csr").write_text("\xe4" * 10000)
    (tmp_path / "edge-6.csr").hardlink_to(elsewhere)
    refused = ["edge-1", "edge-2", "edge-3", "edge-4", "edge-5", "edge-6"]
    if os.geteuid() == 0:
        os.mknod(tmp_path / "edge-7.csr", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        refused.append("edge-7")
    said = run(directory=str(tmp_path))["msg"]
    assert f"{len(refused)} requests in" in said, said
    for thing in refused:
        assert f"{thing}.csr: " in said
    for words in (
        "edge-1.csr: it is a link or a socket, no regular file: put the request itself there",
        "edge-2.csr: it is no regular file",
        "edge-5.csr: it is longer than 16384 bytes",
    ):
        assert words in said, said


@pytest.mark.parametrize("exists", [True, False])
def test_no_request_is_an_error(exists: bool, tmp_path: Path, run: Run) -> None:
    assert "no request THING.csr" in run(directory=str(tmp_path if exists else tmp_path / "no"))["msg"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another")
def test_a_directory_that_cannot_be_read_is_named(run: Run) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        os.seteuid(65534)
        try:
            said = run(directory=directory)["msg"]
        finally:
            os.seteuid(0)
    assert said == f"cannot read {directory}: Permission denied"
