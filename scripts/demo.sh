#!/usr/bin/env bash
# Starts a cluster of three nodes on this machine and returns when it is healthy. Started again, it
# goes on with the data that is there.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/demo-lib.sh
. "$(dirname "$0")/demo-lib.sh"

deadline_s=${QUORATE_DEMO_DEADLINE_S:-120}
dir=$(demo_dir)

# The user postgres must get through; secrets have modes of their own.
umask 022
mkdir -p "$dir/bin"
: >"$dir/.quorate-demo"
[ "$(id -u)" -ne 0 ] || traversable "$dir" ||
  die "user postgres cannot enter $dir; set QUORATE_DEMO_DIR to a directory that it can reach"

# Copies: the demo goes on while the next build replaces the originals, and /root may be closed.
for program in hanode hactl; do
  built=$CARGO_TARGET_DIR/debug/$program
  [ -x "$built" ] || die "$built is missing; run: make build"
  cp -u --remove-destination "$built" "$dir/bin/$program"
done
"$root/scripts/secret.sh" "$dir/secret" >/dev/null
for node in "${nodes[@]}"; do
  # A file that was edited is kept.
  [ -e "$dir/$node.toml" ] || cp "$root/cluster-configs/local/$node.toml" "$dir/$node.toml"
done

started=0
for i in "${!nodes[@]}"; do
  node=${nodes[i]}
  if [ -n "$(daemon_pid "$node")" ]; then
    continue
  fi
  if [ -n "$(ss -Hltn "sport = :${ports[i]}")" ]; then
    die "port ${ports[i]} is taken by another program, so node $node cannot start"
  fi
  setsid "$dir/bin/hanode" run --config "$dir/$node.toml" \
    >>"$dir/$node.log" 2>&1 </dev/null &
  echo $! >"$dir/$node.pid"
  started=$((started + 1))
done
say "$started of ${#nodes[@]} nodes started in $dir; waiting for one primary and two standbys."

# Healthy: one member is primary, two stream.
healthy() {
  local status
  status=$(timeout 5 "$dir/bin/hactl" status -o json 2>/dev/null |
    tr -d ' \t\n') || return 1
  [ "$(grep -o '"stage":"active"' <<<"$status" | wc -l)" -eq 1 ] &&
    [ "$(grep -o '"streaming":true' <<<"$status" | wc -l)" -ge 2 ]
}

SECONDS=0
until healthy; do
  for node in "${nodes[@]}"; do
    # Not by daemon_pid: right after the fork the process is not yet hanode.
    if ! kill -0 "$(cat "$dir/$node.pid")" 2>/dev/null; then
      warn "node $node has ended; the end of $dir/$node.log:"
      tail -n 20 "$dir/$node.log" >&2
      die "the demo did not start; after mending the cause run: make demo"
    fi
  done
  if [ "$SECONDS" -ge "$deadline_s" ]; then
    hactl status >&2 || true
    die "not healthy after $deadline_s s; see $dir/*.log, and try: $dir/bin/hactl explain"
  fi
  sleep 0.5
done

hactl status
ctl=$dir/bin/hactl
cat <<TEXT

The cluster runs in $dir. What to try next:
  $ctl status --watch      # who is primary, as it changes (Ctrl-C ends it)
  $ctl switchover          # move the primary in order
  $ctl history             # what happened, event by event
  $ctl explain             # what the leader waits for, and why
  PGPASSFILE=$dir/n1/member/main.a/superuser.pgpass $ctl psql -U postgres
  kill -9 \$(cat $dir/n1.pid)   # end a daemon: its PostgreSQL runs on for the lease; make demo starts it again
  make demo-stop              # stop everything, keep the data
  make clean-demo             # stop everything, remove the data
TEXT
