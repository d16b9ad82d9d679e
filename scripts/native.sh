#!/usr/bin/env bash
# The first native build: compiles RocksDB once (minutes; longer on few cores) and keeps its archive
# where release builds find it (see release.sh). Quick when it has been done.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

dir=$(native_dir)
version=$(locked_version librocksdb-sys)

# Prints the archive of a finished build of the locked version. Cargo writes `output` only after the
# build script has succeeded, and the script names its source directory there.
built_archive() {
  local output archive
  for output in "$CARGO_TARGET_DIR"/debug/build/librocksdb-sys-*/output; do
    archive=${output%/output}/out/librocksdb.a
    if [ -s "$archive" ] && grep -qF "/librocksdb-sys-$version" "$output" 2>/dev/null; then
      printf '%s\n' "$archive"
      return
    fi
  done
}

if [ -z "$(built_archive)" ]; then
  say "Building RocksDB from source, once a machine. On two cores this takes about half an hour."
fi
# These would make the development build link an archive instead of making one.
unset ROCKSDB_LIB_DIR ROCKSDB_STATIC
cargo build --locked -p librocksdb-sys

archive=$(built_archive)
[ -n "$archive" ] || die "the build left no librocksdb.a under $CARGO_TARGET_DIR/debug/build"
if [ ! -s "$dir/librocksdb.a" ] || [ "$archive" -nt "$dir/librocksdb.a" ]; then
  mkdir -p "$dir"
  cp "$archive" "$dir/librocksdb.a.new"
  mv "$dir/librocksdb.a.new" "$dir/librocksdb.a"
fi

# Everything else that the crate needs.
cargo build --locked --lib
