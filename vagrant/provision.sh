#!/usr/bin/env bash
# Makes a guest ready for the tests: packages, modules, a Python environment with nfnl in it, the commands nfnl and nfnl-suite.
# It can be run again at any time: it does what is missing, tells each thing that it does, and at the end how many there were.
set -euo pipefail

project=/vagrant
environment=/opt/nfnl
changes=0
change() {
    echo "provision: $*"
    changes=$((changes + 1))
}

# --- packages of the distribution
missing=()
while read -r package; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done < <(grep -v '^#' "$project/vagrant/packages.txt")
if [ ${#missing[@]} != 0 ]; then
    change "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
fi

# --- the modules that a user namespace cannot load when it needs them, as it can all others; and one that nothing ever loads
modules=()
for module in ip_tables ip6_tables {iptable,ip6table}_{filter,mangle,nat,raw} nf_nat_ftp; do
    ! modinfo "$module" >/dev/null 2>&1 || modules+=("$module")
done
list=/etc/modules-load.d/nfnl.conf
if [ "$(cat "$list" 2>/dev/null)" != "$(printf '%s\n' "${modules[@]}")" ]; then
    change "loading ${modules[*]}, now and whenever it starts"
    modprobe -a "${modules[@]}"
    printf '%s\n' "${modules[@]}" >"$list"
fi

# --- where there are wheels, pip looks nowhere else
wheels=$project/vagrant/wheels
if [ -d "$wheels" ] && [ ! -e /etc/pip.conf ]; then
    change "packages for Python come from $wheels"
    printf '[global]\nno-index = true\nfind-links = %s\n' "$wheels" >/etc/pip.conf
fi

# --- nfnl as it stands in the synced folder, and what its tests need
made_from=$(cd "$project" && { python3 --version; cat pyproject.toml; ls vagrant/wheels 2>/dev/null || true; } | sha256sum)
if [ "$(cat "$environment/made-from" 2>/dev/null)" != "$made_from" ]; then
    change "making $environment: nfnl, and what its tests need"
    rm -rf "$environment"
    python3 -m venv "$environment"
    mapfile -t requirements < <("$project/vagrant/fetch-wheels" --list)
    # compiling everything at once takes longer than what the tests import when they do
    "$environment/bin/pip" install --quiet --no-compile --disable-pip-version-check --editable "$project" "${requirements[@]}"
    echo "$made_from" >"$environment/made-from"
fi

# --- commands
declare -A commands=([nfnl]=$environment/bin/nfnl [tox]=$environment/bin/tox [nfnl-suite]=$project/vagrant/nfnl-suite)
for name in "${!commands[@]}"; do
    if [ "$(readlink "/usr/local/bin/$name")" != "${commands[$name]}" ]; then
        change "command $name"
        ln -sf "${commands[$name]}" "/usr/local/bin/$name"
    fi
done

echo "provision: $changes changes; $(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release), Linux $(uname -r), $(python3 --version)"
