#!/usr/bin/env bash
# Fuzzes production code: fuzz.sh [SECONDS [TARGET...]], each target for so long, guided by the code
# that its inputs reach. Replays one input: fuzz.sh replay TARGET FILE. See docs/fuzzing.md.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

# What was found grows outside the checkout; what is checked in is where it begins.
cache=${QUORATE_FUZZ_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/quorate/fuzz}
crate=crates/fuzz
host=$(rustc -vV | awk '/^host: / { print $2 }')

# LLVM's coverage instrumentation works with a stable compiler. With an explicit target the flags
# are for what runs there and not for build scripts. They replace each other, so all are here.
flags=(
  -Cpasses=sancov-module
  -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares
)
build() {
  say "Building the fuzzer."
  RUSTFLAGS="${flags[*]}" cargo build --locked --quiet -p quorate-fuzz --bin quorate-fuzz --features engine \
    --profile fuzz --target "$host" --target-dir "$CARGO_TARGET_DIR/fuzzing"
}
program=$CARGO_TARGET_DIR/fuzzing/$host/fuzz/quorate-fuzz

if [ "${1:-}" = replay ]; then
  [ $# -eq 3 ] || die "usage: scripts/fuzz.sh replay TARGET FILE"
  exec env RUST_BACKTRACE=1 cargo run --locked --quiet -p quorate-fuzz --bin quorate-fuzz-replay \
    -- "$2" "$3"
fi

seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "usage: scripts/fuzz.sh [SECONDS [TARGET...]]"
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for dir in "$crate"/corpus/*/; do
    targets+=("$(basename "$dir")")
  done
fi
build

# One line of libFuzzer's final statistics: stat NAME LOG
stat() { awk -v name="stat::$1:" '$1 == name { print $2 }' "$2"; }

crashes=0
printf '%-12s %12s %8s %8s %8s %8s\n' target executions per-s coverage corpus crashes
for target in "${targets[@]}"; do
  [ -d "$crate/corpus/$target" ] || die "there is no target $target"
  grown=$cache/corpus/$target
  found=$cache/crashes/$target
  log=$cache/$target.log
  mkdir -p "$grown" "$found"
  options=(
    "-max_total_time=$seconds" -timeout=20 -rss_limit_mb=2048 -use_value_profile=1
    "-artifact_prefix=$found/" -print_final_stats=1 -verbosity=1
  )
  [ ! -f "$crate/dictionary/$target" ] || options+=("-dict=$crate/dictionary/$target")
  ended=0
  nice -n 19 env QUORATE_FUZZ_TARGET="$target" RUST_BACKTRACE=1 "$program" "${options[@]}" \
    "$grown" "$crate/corpus/$target" >"$log" 2>&1 || ended=$?
  coverage=$(grep -o ' cov: [0-9]*' "$log" | tail -n 1 | awk '{ print $2 }') || true
  crashed=0
  [ "$ended" -eq 0 ] || crashed=1
  printf '%-12s %12s %8s %8s %8s %8s\n' "$target" "$(stat number_of_executed_units "$log")" \
    "$(stat average_exec_per_sec "$log")" "${coverage:-?}" \
    "$(find "$grown" -type f | wc -l)" "$crashed"
  if [ "$crashed" -eq 1 ]; then
    crashes=$((crashes + 1))
    warn "target $target ended with status $ended; the end of $log:"
    grep -E -A 3 'panicked at|^==[0-9]+== ?ERROR|SUMMARY' "$log" | head -n 20 >&2 || tail -n 20 "$log" >&2
    input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    if [ -n "$input" ]; then
      warn "the input is $input; replay it: scripts/fuzz.sh replay $target $input"
      warn "once it is mended: cp $input $crate/regressions/$target/"
    fi
  fi
done
[ "$crashes" -eq 0 ] || die "$crashes target(s) found an input that breaks the product"
