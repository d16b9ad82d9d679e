#!/usr/bin/env bash
# Makes the secret that all nodes of a control plane share: secret.sh FILE
# Leaves a file that is there alone. Copy the same file to every node.
set -euo pipefail

[ $# -eq 1 ] || {
  echo "usage: scripts/secret.sh FILE" >&2
  exit 2
}
if [ -e "$1" ]; then
  echo "$1 is there already."
  exit 0
fi
umask 077
# 32 random bytes as 64 hexadecimal digits. Through a new name, so that no reader sees a half.
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$1.new"
echo >>"$1.new"
mv "$1.new" "$1"
echo "$1 made."
