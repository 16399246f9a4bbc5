#!/bin/sh
# Run every Molecule scenario, or those that are named; whatever happens, leave no machine behind.
set -eu
cd "$(dirname -- "$0")/../.."

# An emulated board takes its time.
AT_MOST_S=${AT_MOST_S:-1800}
# Molecule folds what it shows at 80 columns otherwise.
export COLUMNS=${COLUMNS:-160}
log=

# The last thing on the screen is what failed, not Molecule's recap of everything that did not.
tell_failures() {
    [ -s "$log" ] || return 0
    printf '==> what failed, from %s:\n' "$log" >&2
    sed 's/\x1b\[[0-9;]*m//g; s/^ *│ //' "$log" | grep -aE '^(FAILED|ERROR tests|E  |fatal:|\[ERROR\])' |
        cut -c1-200 | tail -n 12 >&2
}

clean_up() {
    status=$?
    trap - EXIT INT TERM
    python -m lab purge || status=1
    [ "$status" = 0 ] || tell_failures
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# shellcheck disable=SC2046 # names without spaces
[ $# -gt 0 ] || set -- $(for folder in molecule/*/molecule.yml; do basename "$(dirname "$folder")"; done)
mkdir -p build
for scenario in "$@"; do
    printf '==> molecule test: %s\n' "$scenario" >&2
    log=build/molecule-$scenario.log
    { timeout "$AT_MOST_S" molecule test --scenario-name "$scenario" 2>&1 && echo "molecule: passed"; } | tee "$log"
    grep -q '^molecule: passed$' "$log"
    # A step whose playbook is missing is skipped with a warning: nothing of a scenario may be skipped.
    if grep -q 'Missing playbook\|no tests found' "$log"; then
        echo "molecule: a step of $scenario had nothing to run, see $log" >&2
        exit 1
    fi
done
