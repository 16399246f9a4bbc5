#!/bin/sh
# Make this machine able to emulate others: QEMU, and what builds their images. Only the targets that need it call it.
set -eu

packages="arch-test binfmt-support e2fsprogs kmod mmdebstrap qemu-system-arm qemu-system-x86 qemu-user-static swtpm"
missing=
for package in $packages; do
    dpkg-query --show --showformat '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0
printf '==> installing Debian packages:%s\n' "$missing" >&2
apt-get update -qq
# shellcheck disable=SC2086 # a list of names
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
