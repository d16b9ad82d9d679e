#!/usr/bin/env bash
# Runs Python with what examples/python needs, in an environment of its own outside the checkout,
# which is made where it is missing or older than the list of requirements:
#   python.sh SCRIPT [ARGUMENT...]
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

wanted=$root/examples/python/requirements.txt
cache=${XDG_CACHE_HOME:-$HOME/.cache}/quorate
environment=$cache/python
if ! cmp -s "$wanted" "$environment/requirements.txt"; then
  mkdir -p "$cache"
  # Two at once: the second waits, and finds it made.
  exec 9>"$cache/python.lock"
  flock 9
  if ! cmp -s "$wanted" "$environment/requirements.txt"; then
    warn "Making an environment of Python in $environment."
    rm -rf "$environment"
    # Debian's own, if it is there: another may lack the module ensurepip.
    python=/usr/bin/python3
    [ -x "$python" ] || python=python3
    "$python" -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
    cp "$wanted" "$environment/requirements.txt"
  fi
  exec 9>&-
fi
[ $# -gt 0 ] || exit 0
exec "$environment/bin/python" "$@"
