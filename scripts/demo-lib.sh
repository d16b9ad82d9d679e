#!/usr/bin/env bash
# Functions of the demo's scripts. Read with `.`, after lib.sh.
# shellcheck disable=SC2034 # what is set here is used by the scripts that read this file

# The nodes, and the gRPC port of each.
nodes=(n1 n2 n3)
ports=(7401 7402 7403)

# Longest demo directory in bytes: "/n1/run/main.a/socket/.s.PGSQL.5501" is put behind it, and the
# path of a Unix socket has at most 107 bytes.
demo_dir_bytes_max=70

# Whether every directory from $1 upwards lets all users through.
traversable() {
  local at=$1 mode
  while :; do
    mode=$(stat -c %a "$at") || return 1
    [ $((0$mode & 1)) -eq 1 ] || return 1
    [ "$at" != / ] || return 0
    at=$(dirname "$at")
  done
}

# Prints the demo's directory, the same at every call:
# - QUORATE_DEMO_DIR where it is set;
# - demo/ in the checkout, where the paths of sockets are short enough, and where, for root, the
#   user postgres gets there (it owns the data; /root usually is closed to it);
# - else /var/lib/quorate-demo for root, ~/.local/state/quorate-demo for others.
demo_dir() {
  local dir
  if [ -n "${QUORATE_DEMO_DIR:-}" ]; then
    dir=$(realpath -m -- "$QUORATE_DEMO_DIR")
  else
    # shellcheck disable=SC2154 # root comes from lib.sh
    dir=$root/demo
    if [ "$(id -u)" -eq 0 ]; then
      if [ ${#dir} -gt "$demo_dir_bytes_max" ] || ! traversable "$root"; then
        dir=/var/lib/quorate-demo
      fi
    elif [ ${#dir} -gt "$demo_dir_bytes_max" ] || [ ! -w "$root" ]; then
      dir=${XDG_STATE_HOME:-$HOME/.local/state}/quorate-demo
    fi
  fi
  [ ${#dir} -le "$demo_dir_bytes_max" ] ||
    die "$dir is too long for Unix sockets; set QUORATE_DEMO_DIR to $demo_dir_bytes_max bytes or less"
  printf '%s\n' "$dir"
}

# Whether process $1 runs the demo's hanode. A number alone proves nothing: numbers are used again.
is_ours() {
  local exe
  exe=$(readlink "/proc/$1/exe" 2>/dev/null) || return 1
  # shellcheck disable=SC2154 # dir is set by the script
  [ "${exe% (deleted)}" = "$dir/bin/hanode" ]
}

# Prints the process of node $1, if it lives.
daemon_pid() {
  local pid
  pid=$(cat "$dir/$1.pid" 2>/dev/null) || return 0
  case $pid in '' | *[!0-9]*) return 0 ;; esac
  if is_ours "$pid"; then
    printf '%s\n' "$pid"
  fi
}

# Prints every process of the demo's hanode: daemons, guards and inits.
all_pids() {
  local proc pid
  for proc in /proc/[0-9]*; do
    pid=${proc#/proc/}
    if is_ours "$pid"; then
      printf '%s\n' "$pid"
    fi
  done
}

# Where hactl finds the control plane of the demo.
export HACTL_ENDPOINTS=127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403

hactl() { "$dir/bin/hactl" "$@"; }
