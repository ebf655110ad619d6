#!/usr/bin/env bash
# Makes sure that there is a Chromium, for `make test-web`: installs Debian's package as root or with sudo, or says what is
# missing.
set -euo pipefail

works() {
  command -v chromium >/dev/null && chromium --version >/dev/null 2>&1
}

fail() {
  echo "test-web: there is no Chromium, $1. Install it so that the command chromium works (Debian: apt-get install chromium)." >&2
  exit 1
}

works && exit
command -v apt-get >/dev/null || fail 'and no apt-get to install it with'
as=()
if [ "$(id -u)" != 0 ]; then
  as=(sudo -n)
  sudo -n true 2>/dev/null || fail 'and neither root nor sudo without a password to install it with'
fi
echo 'Installing Chromium from the packages of Debian.'
"${as[@]}" apt-get update -q
"${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium
works || fail 'although the package is installed'
