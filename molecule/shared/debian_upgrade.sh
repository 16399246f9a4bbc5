#!/bin/sh
# Upgrade a device from Debian 12 to 13 as an operator would, without a converge, and verify that it goes on by itself.
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

python -m lab up cloud01 edge01
for playbook in molecule/default/prepare.yml playbooks/site.yml molecule/default/side_effect_upgrade.yml; do
    ansible-playbook -i inventory/lab --limit cloud01,edge01 "$playbook"
done
python -m pytest -q -p no:cacheprovider --connection=ssh --ssh-config="$EDGE_LAB_DIR/ssh/config" --hosts=edge01 --sudo \
    molecule/default/tests/upgraded
