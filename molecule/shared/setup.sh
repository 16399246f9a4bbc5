#!/bin/sh
# Make this machine able to run the lab: Debian packages and the virtual environment of the lock.
# Quick when there is nothing to do; says what it does otherwise.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
cache=${EDGE_CACHE_DIR:?}

say() { printf '==> %s\n' "$*" >&2; }

# The lab's machines, the compiler for pycurl, real tokens and tools for the unit tests.
packages="ca-certificates chromium dbus gcc git gnutls-bin iproute2 iptables libc6-dev libcurl4-openssl-dev
libengine-pkcs11-openssl libssl-dev libtpm2-pkcs11-1 libtpm2-pkcs11-tools libtss2-tcti-tabrmd0 mmdebstrap opensc
opensc-pkcs11 openssh-client openssl p11-kit python3 python3-dev python3-pycurl python3-venv shellcheck softhsm2 sudo
swtpm swtpm-tools systemd-container tpm2-abrmd tpm2-tools"
missing=
for package in $packages; do
    # Such as the browser, where none of its tests run.
    case " ${EDGE_SETUP_WITHOUT:-} " in *" $package "*) continue ;; esac
    dpkg-query --show --showformat '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' ||
        missing="$missing $package"
done
if [ -n "$missing" ]; then
    say "installing Debian packages:$missing"
    mkdir -p "$cache"
    apt-get update -qq
    # No service of these packages is wanted on this machine.
    policy=/usr/sbin/policy-rc.d
    ours=
    if [ ! -e "$policy" ]; then
        ours=$policy
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    # shellcheck disable=SC2086 # a list of names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >"$cache/apt.log" 2>&1 || {
        [ -z "$ours" ] || rm -f "$ours"
        tail -n 20 "$cache/apt.log" >&2
        exit 1
    }
    [ -z "$ours" ] || rm -f "$ours"
    rm -f "$cache/apt.log"
fi

# Only promtool: Debian 12 has it in the package prometheus, whose service nobody wants here.
if ! command -v promtool >/dev/null && [ ! -x "$cache/bin/promtool" ]; then
    say "unpacking promtool into $cache/bin"
    mkdir -p "$cache/bin"
    folder=$(mktemp -d)
    (
        cd "$folder"
        chmod 755 .
        package=prometheus
        ! apt-cache show promtool >/dev/null 2>&1 || package=promtool
        apt-get download -qq $package 2>/dev/null || { apt-get update -qq && apt-get download -qq $package; }
        dpkg-deb --fsys-tarfile ./*.deb | tar -x --to-stdout ./usr/bin/promtool >promtool
    )
    install -m 755 "$folder/promtool" "$cache/bin/promtool"
    rm -rf "$folder"
fi

python=
for candidate in python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || { say "Python 3.11 or newer with ensurepip is needed: apt-get install python3 python3-venv"; exit 1; }

# A digest of the lock names the environment's state: an interrupted or outdated one is made again.
wanted=$(cat "$root/requirements.lock" "$root/molecule/shared/setup.sh" | sha256sum | cut -c1-16)
if [ "$(cat "$cache/venv/.lock" 2>/dev/null || true)" != "$wanted" ]; then
    say "making the virtual environment in $cache/venv"
    mkdir -p "$cache"
    rm -rf "$cache/venv"
    "$python" -m venv "$cache/venv"
    pip="$cache/venv/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes"
    awk '/^[a-z]/ { wanted = /^setuptools==/ } wanted' "$root/requirements.lock" >"$cache/venv/setuptools.lock"
    $pip --requirement "$cache/venv/setuptools.lock"
    # PyPI's wheel of pycurl carries an OpenSSL of its own, which cannot load the PKCS#11 engine.
    PYCURL_SSL_LIBRARY=openssl $pip --no-build-isolation --no-binary pycurl --requirement "$root/requirements.lock"
    echo "$wanted" >"$cache/venv/.lock"
fi

# Galaxy may be out of reach where tests run. PyPI's package ansible has amazon.aws in it, and Ansible looks in its Python's
# site-packages by itself.
collections=$cache/collections
wanted=$(sha256sum <"$root/molecule/shared/collections.lock" | cut -c1-16)
if [ "$(cat "$collections/.lock" 2>/dev/null || true)" != "$wanted" ]; then
    say "unpacking the collection amazon.aws into $collections"
    rm -rf "$collections"
    folder=$(mktemp -d)
    "$cache/venv/bin/python" -m pip --quiet --disable-pip-version-check download --require-hashes --no-deps \
        --only-binary :all: --dest "$folder" --requirement "$root/molecule/shared/collections.lock"
    "$cache/venv/bin/python" -c '
import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if name.startswith("ansible_collections/amazon/aws/")])
' "$folder"/ansible-*.whl "$collections"
    rm -rf "$folder"
    echo "$wanted" >"$collections/.lock"
fi
ln -sfn "$collections/ansible_collections" "$(echo "$cache"/venv/lib/python3.*/site-packages)/ansible_collections"
