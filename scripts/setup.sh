#!/usr/bin/env bash
# Installs what is missing for building, testing and the demo. Changes nothing where all is there.
# Debian and its relatives, by apt, as root or through sudo.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo)
fi

updated=
apt_install() {
  command -v apt-get >/dev/null 2>&1 ||
    die "apt-get is not there; install the counterparts of these Debian packages: $*"
  if [ ${#as_root[@]} -gt 0 ] && ! command -v sudo >/dev/null 2>&1; then
    die "neither root nor sudo; run as root: apt-get install --no-install-recommends $*"
  fi
  if [ -z "$updated" ]; then
    "${as_root[@]}" apt-get update -q
    updated=yes
  fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "$@"
}

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q '^install ok installed$'; }

# Programs that the build and the tests call, and the packages that bring them. Tests adopt a server of
# pg_createcluster, which is in postgresql-common.
missing=()
for package in build-essential libclang-dev iproute2 iptables xz-utils python3 python3-venv \
  postgresql-common; do
  installed "$package" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"

# The server. Debian's package makes and starts a cluster of its own on port 5432 unless told not
# to, so it is told before its first installation. An installation that is there is not touched.
if ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null && ! command -v postgres >/dev/null 2>&1; then
  apt_install postgresql-common
  conf=/etc/postgresql-common/createcluster.conf
  if ! grep -qE '^[[:space:]]*create_main_cluster[[:space:]]*=[[:space:]]*false' "$conf" 2>/dev/null; then
    echo 'create_main_cluster = false' | "${as_root[@]}" tee -a "$conf" >/dev/null
  fi
  apt_install postgresql
fi

# Rust. Debian's own is taken where it is new enough.
wanted=$(awk -F'"' '/^rust-version/ { print $2; exit }' "$root/Cargo.toml")
new_enough() { [ "$(printf '%s\n%s\n' "$wanted" "$1" | sort -V | head -n 1)" = "$wanted" ]; }
have=$(cargo --version 2>/dev/null | awk '{ print $2 }') || have=
if [ -z "$have" ]; then
  candidate=$(apt-cache policy cargo 2>/dev/null | awk '$1 == "Candidate:" { print $2 }') || candidate=
  if [ -n "$candidate" ] && [ "$candidate" != "(none)" ] && new_enough "$candidate"; then
    apt_install cargo rustc rust-clippy rustfmt
    have=$(cargo --version | awk '{ print $2 }')
  fi
fi
if [ -z "$have" ] || ! new_enough "$have"; then
  warn "Rust $wanted or newer is needed; ${have:-none} is there, and Debian's is too old."
  if command -v rustup >/dev/null 2>&1; then
    die "run: rustup toolchain install stable --component clippy,rustfmt && rustup default stable"
  fi
  die "install it as https://rustup.rs says, with the components clippy and rustfmt, and run this again"
fi

if ! cargo nextest --version >/dev/null 2>&1; then
  say "Installing cargo-nextest, the test runner."
  env -u CARGO_TARGET_DIR cargo install cargo-nextest --locked
fi
# Builds the Debian package. Not worth optimising: it runs for seconds.
if ! cargo deb --version >/dev/null 2>&1; then
  say "Installing cargo-deb, which builds the Debian package."
  env -u CARGO_TARGET_DIR CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=false \
    cargo install cargo-deb --version 3.8.0 --locked --no-default-features
fi
# What the clients in Python need.
"$root/scripts/python.sh"
say "All that is needed is there."
