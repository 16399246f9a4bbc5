#!/bin/sh
# A report of what an emulated board cannot show, for a real one: run it as root on a device that status calls ok.
# It rotates credentials six times and writes 4 MB below /var/lib. Nothing in the report is secret.
set -u

heading() { printf '\n== %s\n' "$1"; }
tell() { printf '%-28s %s\n' "$1" "${2:-none}"; }
milliseconds() { echo $(($(date +%s%N) / 1000000)); }

heading board
tell model "$(tr -d '\0' </proc/device-tree/model 2>/dev/null)"
tell kernel "$(uname -srm)"
tell architecture "$(dpkg --print-architecture)"
tell debian "$(cat /etc/debian_version)"
tell memory "$(awk '/MemTotal/ { print int($2 / 1024) " MB" }' /proc/meminfo)"
tell rotator "$(readlink -f /usr/local/bin/edge-rotator)"
tell litestream "$(litestream version 2>&1)"

heading 'clock and chips'
tell 'clock chips' "$(find /dev -name 'rtc*' -type c | tr '\n' ' ')"
tell 'time is synchronised' "$(timedatectl show --property=NTPSynchronized --value 2>/dev/null)"
tell 'clock behind at last boot' "$(journalctl --boot --quiet --output=cat --grep='System time (before build time|advanced to)' | head -n 1)"
tell TPM "$(find /dev -name 'tpm*' -type c | tr '\n' ' ')"
tell I2C "$(find /dev -name 'i2c-*' -type c | tr '\n' ' ')"

heading 'token and sandbox'
edge-rotator doctor --login
echo "doctor ended with $?"
systemd-analyze security --no-pager edge-rotator.service litestream.service sample-app.service 2>&1 | grep 'Overall exposure'
tell 'failed units' "$(systemctl --failed --plain --no-legend | cut -d' ' -f1 | tr '\n' ' ')"

heading 'times, in ms'
for unit in edge-rotator.service edge-rotator-force.service; do
    times=
    for _ in 1 2 3 4 5 6; do
        begun=$(milliseconds)
        systemctl start "$unit" || times="$times failed:"
        times="$times $(($(milliseconds) - begun))"
    done
    tell "$unit" "$times"
done
# A card that answers a sync in no time has not written anything.
scratch=$(mktemp /var/lib/check-board.XXXXXX)
begun=$(milliseconds)
dd if=/dev/zero of="$scratch" bs=4k count=1000 oflag=dsync 2>/dev/null
tell '1000 writes of 4 KB, synced' $(($(milliseconds) - begun))
rm -f "$scratch"

heading status
edge-rotator status
echo "status ended with $?"
