#!/usr/bin/env bash
# Functions that the other scripts share. Read with `.`, not run.

# Root of the checkout.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Where cargo builds. Outside the checkout, so that several checkouts share the native build.
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/quorate/target}
export CARGO_TARGET_DIR

# Installed by rustup, but not on the path of every shell.
if ! command -v cargo >/dev/null 2>&1 && [ -x "$HOME/.cargo/bin/cargo" ]; then
  PATH=$HOME/.cargo/bin:$PATH
fi

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Locked version of a package, from Cargo.lock: locked_version NAME
locked_version() {
  awk -v name="$1" '
    $1 == "name" { found = ($3 == "\"" name "\"") }
    $1 == "version" && found { gsub(/"/, "", $3); print $3; exit }
  ' "$root/Cargo.lock"
}

# Directory of the RocksDB archive that release builds link, by the locked version.
native_dir() {
  local version
  version=$(locked_version librocksdb-sys)
  [ -n "$version" ] || die "librocksdb-sys is not in Cargo.lock"
  printf '%s/native/librocksdb-sys-%s\n' "$CARGO_TARGET_DIR" "$version"
}
