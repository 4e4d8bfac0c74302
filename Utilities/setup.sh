#!/usr/bin/env bash
# Makes .venv in the checkout with everything MedGen needs: Utilities/setup.sh [test]. Does nothing where it is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
extra="${1:-}"

# What Qt and VTK open at run time, and the browser in which the page of a batch is tested. Debian's names; elsewhere,
# and for who is not root, only named.
packages=(libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libxkbcommon0 libdbus-1-3 libfontconfig1 libglib2.0-0 chromium)
if [ "$extra" = test ] && command -v dpkg-query >/dev/null; then
  missing=()
  for name in "${packages[@]}"; do
    # The t64 twin is the name from Debian 13 on.
    dpkg-query -W -f '${Status}\n' "$name" "${name}t64" 2>/dev/null | grep -q 'install ok installed' || missing+=("$name")
  done
  if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" = 0 ]; then
      apt-get -qq update
      DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
    else
      echo "Please install, as root: apt-get install ${missing[*]}" >&2
    fi
  fi
fi

python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
  echo "The pins in constraints.txt are for Python 3.11 to 3.13; set PYTHON to one, as in PYTHON=python3.11 $0" >&2
  exit 2
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-venv >/dev/null
  else
    echo "Please install Python's venv module, on Debian: apt-get install python3-venv" >&2
    exit 2
  fi
fi

# The stamp says for which pins, and with which extra, .venv was filled; what holds the tests' packages serves the demo.
stamp=".venv/medgen-installed"
wanted="$(cat constraints.txt pyproject.toml Utilities/setup.sh | cksum)"
if [ -f "$stamp" ] && { [ "$(cat "$stamp")" = "$wanted test" ] || [ "$(cat "$stamp")" = "$wanted $extra" ]; }; then
  exit 0
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
rm -f "$stamp"
export PIP_DISABLE_PIP_VERSION_CHECK=1
# torch alone and first: later installs then find the requirement met and leave this build of it in place.
.venv/bin/python -m pip install --quiet "$(grep '^torch==' constraints.txt)" -c constraints.txt
.venv/bin/python -m pip install --quiet -c constraints.txt -e ".${extra:+[$extra]}"
echo "$wanted $extra" >"$stamp"
