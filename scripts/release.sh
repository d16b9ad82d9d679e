#!/usr/bin/env bash
# Runs a cargo command of the release profile: release.sh cargo bench ...
# It links the RocksDB archive of the development build, which is optimised as well, so that no
# second native build is needed. The build script of librocksdb-sys takes the archive by
# ROCKSDB_LIB_DIR, and links it statically where ROCKSDB_STATIC is set.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

[ $# -gt 0 ] || die "usage: scripts/release.sh COMMAND [ARGUMENT...]"
dir=$(native_dir)
[ -s "$dir/librocksdb.a" ] || "$root/scripts/native.sh"
exec env ROCKSDB_LIB_DIR="$dir" ROCKSDB_STATIC=1 "$@"
