#!/usr/bin/env bash
# Stops the demo and removes its directory with all data.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/demo-lib.sh
. "$(dirname "$0")/demo-lib.sh"

dir=$(demo_dir)
"$root/scripts/demo-stop.sh"
# Only a directory that the demo has made.
if [ -e "$dir/.quorate-demo" ]; then
  rm -rf -- "$dir"
  say "$dir is removed."
fi
