#!/usr/bin/env bash
# Stops the demo: daemons, guards and every PostgreSQL. The data stays.
# SIGTERM alone would not do: hanode leaves PostgreSQL running under its guard, for upgrades.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/demo-lib.sh
. "$(dirname "$0")/demo-lib.sh"

dir=$(demo_dir)
[ -e "$dir/.quorate-demo" ] || {
  say "There is no demo in $dir."
  exit 0
}

# Waits until no process of the list lives; fails after $1 seconds.
gone() {
  local until_s=$((SECONDS + $1)) pid alive
  shift
  while :; do
    alive=
    for pid in "$@"; do
      if is_ours "$pid"; then
        alive=yes
      fi
    done
    [ -n "$alive" ] || return 0
    [ "$SECONDS" -lt "$until_s" ] || return 1
    sleep 0.1
  done
}

mapfile -t pids < <(all_pids)
if [ ${#pids[@]} -gt 0 ]; then
  # All at once: one after the other would make the rest fail over.
  stops=()
  for node in "${nodes[@]}"; do
    timeout 60 "$dir/bin/hanode" stop --config "$dir/$node.toml" >>"$dir/$node.log" 2>&1 &
    stops+=($!)
  done
  for pid in "${stops[@]}"; do
    wait "$pid" || true
  done
fi

# What is left, by number: daemons in order, then guards. The death of a guard is the death of its
# init, and with it of every process in the init's PID namespace.
for node in "${nodes[@]}"; do
  pid=$(daemon_pid "$node")
  if [ -n "$pid" ]; then
    kill -TERM "$pid" 2>/dev/null || true
    gone 10 "$pid" || kill -KILL "$pid" 2>/dev/null || true
  fi
  rm -f "$dir/$node.pid"
done
mapfile -t pids < <(all_pids)
if [ ${#pids[@]} -gt 0 ] && ! gone 5 "${pids[@]}"; then
  mapfile -t pids < <(all_pids)
  warn "still running after an orderly stop, killed now: ${pids[*]}"
  for pid in "${pids[@]}"; do
    if is_ours "$pid"; then
      kill -KILL "$pid" 2>/dev/null || true
    fi
  done
  gone 10 "${pids[@]}" || die "processes ${pids[*]} do not end"
fi
say "The demo in $dir is stopped; its data is kept."
