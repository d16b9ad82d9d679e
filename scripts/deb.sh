#!/usr/bin/env bash
# Builds the Debian package by `cargo deb`, from the metadata in Cargo.toml:
#   deb.sh PROFILE OUTPUT_DIRECTORY [VERSION]
# The programs of that profile have to be built already. Manual pages and completions are written by
# the programs themselves.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

[ $# -ge 2 ] || die "usage: scripts/deb.sh PROFILE OUTPUT_DIRECTORY [VERSION]"
profile=$1 output=$2 version=${3:-}
case $profile in
dev) programs=$CARGO_TARGET_DIR/debug ;;
*) programs=$CARGO_TARGET_DIR/$profile ;;
esac
cargo deb --version >/dev/null 2>&1 || die "cargo-deb is not there: scripts/setup.sh installs it"
for program in hanode hactl; do
  [ -x "$programs/$program" ] || die "$programs/$program is not built"
done

manual=$programs/manual
rm -rf "$manual"
"$programs/hactl" manual "$manual"
"$programs/hanode" manual "$manual"
gzip -9n "$manual"/man?/*

options=()
[ -z "$version" ] || options+=(--deb-version "$version")
# What is built for development is packed to be tried, not to be kept.
[ "$profile" != dev ] || options+=(--fast)
cargo deb --locked --offline --no-build --profile "$profile" --output "$output/" "${options[@]}"
