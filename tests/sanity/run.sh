#!/bin/sh
# ansible-test sanity on the built collection, in the directory layout that ansible-test asks for.
# Not checked: PowerShell (pslint says so itself), edge_rotator/ and docs/, which are no plugins; ruff and mypy do.
set -eu
repository=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
# Its virtual environments with the versions that ansible-core pins stay here.
home=${EDGE_CACHE_DIR:?}/sanity

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
collection=$work/ansible_collections/edge_litestream/appliance
mkdir -p "$collection/tests" "$home/.ansible/test/cache"
cd "$repository"
ansible-galaxy collection build --output-path "$work" >"$work/log"
tar -xzf "$work"/edge_litestream-appliance-*.tar.gz -C "$collection"
cp tests/config.yml "$collection/tests/"
# ansible-core asks for the GPL in every module; this project is under the MIT license.
mkdir "$collection/tests/sanity"
core=$(python -c 'import ansible.release; print(ansible.release.__version__.rpartition(".")[0])')
for module in $(git ls-files --cached --others --exclude-standard 'plugins/modules/*.py' 'plugins/inventory/*.py' 'plugins/callback/*.py'); do
    echo "$module validate-modules:missing-gplv3-license"
done >"$collection/tests/sanity/ignore-$core.txt"

# ansible-test would download this script from a server of its own; Python has pip with it.
bootstrap=$(python -c 'import pathlib, re, ansible_test
text = (pathlib.Path(ansible_test.__file__).parent / "_internal/python_requirements.py").read_text()
print("get_pip_" + re.search(r"pip=.(\d[.\d]*)", text)[1].replace(".", "_") + ".py")')
echo 'import ensurepip; ensurepip.bootstrap()' >"$home/.ansible/test/cache/$bootstrap"

cd "$collection"
python=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
HOME=$home ansible-test sanity --local --python "$python" --requirements --lint --color no \
    --exclude edge_rotator/ --exclude docs/ 2>"$work/log" || {
    tail -n 20 "$work/log" >&2
    exit 1
}
