"""Run the tests with a newer Python and newer ansible-core, in a Debian 13 made from the lab's image.

The root file system stays in the cache: its name is the image's, and setup.sh inside keeps packages and
virtual environment as the lock says. The work tree is there read-only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lab.image import ensure_image
from lab.settings import REPOSITORY
from lab.shell import run, say

SUITE = "trixie"
INSIDE = "/src"
# It runs beside booted machines.
TIMEOUT_S = 2400

# Whoever needs a mirror, a proxy or a certificate authority of their own for pip says so by these.
SETTINGS = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "http_proxy", "https_proxy", "no_proxy")
CONFIGURATION = ("/etc/pip.conf", "/etc/xdg/pip")

SCRIPT = """
set -eu
export EDGE_CACHE_DIR=/var/cache/edge-litestream PATH=/var/cache/edge-litestream/venv/bin:$PATH
EDGE_SETUP_WITHOUT=chromium molecule/shared/setup.sh
python --version
# A device's modules with the oldest ansible-core and Python 3.13 are what Molecule runs on its Debian 13.
newest=$(ls tests/matrix/ansible-core-*.lock | tail -n 1)
for lock in tests/matrix/ansible-core-*.lock; do
    core=$EDGE_CACHE_DIR/$(basename "$lock" .lock)-$(sha256sum "$lock" | cut -c1-12)
    if [ ! -e "$core/done" ]; then
        rm -rf "$core"
        python -m pip install --quiet --require-hashes --no-deps --target "$core" --requirement "$lock"
        touch "$core/done"
    fi
    # Before the virtual environment's own ansible-core on the path, and so instead of it.
    export PYTHONPATH=$core
    python -m ansible playbook --version | head -n 1
    python -m ansible playbook -i inventory/production.example --syntax-check playbooks/*.yml >/dev/null
    if [ "$lock" = "$newest" ]; then
        # Not here: playbooks against a stand-in for AWS, for minutes, and the lab, which is for Debian 12.
        set -- --ignore tests/unit/aws --ignore tests/unit/lab tests/unit
    else
        # A release between two that pass can differ in how it loads plugins and runs plays, not in ours.
        set -- --ignore tests/unit/plugins/modules --ignore tests/unit/plugins/plugin_utils tests/unit/plugins
    fi
    python -m pytest --quiet -p no:cacheprovider --numprocesses 2 --ignore tests/unit/plugins/browser "$@"
done
"""


def root_directory(cache: Path) -> Path:
    """Return the unpacked root of the image; a new image replaces an old root."""
    image = ensure_image(cache / "images", SUITE)
    root = cache / "matrix" / image.stem
    if not root.exists():
        shutil.rmtree(root.parent, ignore_errors=True)
        partial = root.with_suffix(".partial")
        partial.mkdir(parents=True)
        say(f"unpacking {image.name}")
        run("tar", "--extract", f"--file={image}", f"--directory={partial}", "--numeric-owner", timeout_s=300)
        partial.rename(root)
    return root


def settings() -> list[str]:
    """Hand in what pip is told here: variables, and the files that they name."""
    words = [f"--bind-ro={path}" for path in CONFIGURATION if Path(path).exists()]
    for name, value in os.environ.items():
        if not name.startswith("PIP_") and name not in SETTINGS:
            continue
        inside = value
        if Path(value).is_file():
            inside = f"/mnt/{name}"
            words.append(f"--bind-ro={value}:{inside}")
        words.append(f"--setenv={name}={inside}")
    return words


def main() -> int:
    """Run everything; its exit code is the first failure's."""
    root = root_directory(Path(os.environ["EDGE_CACHE_DIR"]))
    command = [
        *("systemd-nspawn", "--quiet", "--settings=no", f"--directory={root}", "--machine=edge-matrix"),
        *("--register=no", "--keep-unit", "--as-pid2", "--pipe", "--link-journal=no", "--timezone=off"),
        *("--resolv-conf=replace-host", f"--bind-ro={REPOSITORY}:{INSIDE}", f"--chdir={INSIDE}"),
        *settings(),
        *(
            "--setenv=PYTHONPYCACHEPREFIX=/tmp/pycache",
            "--setenv=HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis",
        ),
        *("/bin/sh", "-c", SCRIPT),
    ]
    # /tmp is the disk's: tests make hard links between it and /var.
    env = {
        "PATH": os.environ["PATH"],
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        "SYSTEMD_NSPAWN_TMPFS_TMP": "0",
    }
    return subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, check=False, timeout=TIMEOUT_S
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
