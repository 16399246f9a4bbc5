#!/bin/sh
# Run every Molecule scenario; whatever happens, leave no machine behind.
set -eu
cd "$(dirname -- "$0")/../.."

clean_up() {
    status=$?
    trap - EXIT INT TERM
    python -m lab purge || status=1
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

for folder in molecule/*/molecule.yml; do
    scenario=$(basename "$(dirname "$folder")")
    printf '==> molecule test: %s\n' "$scenario" >&2
    molecule test --scenario-name "$scenario"
done
