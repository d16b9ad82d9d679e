#!/usr/bin/env bash
# Installs the programs, the systemd units and an example configuration:
#   packaging/install.sh DIRECTORY_OF_PROGRAMS
# DESTDIR puts everything below another root, for packages. What the operator may have changed is
# never overwritten, and nothing is started.
set -euo pipefail

[ $# -eq 1 ] || {
  echo "usage: packaging/install.sh DIRECTORY_OF_PROGRAMS" >&2
  exit 2
}
programs=$1
here=$(cd "$(dirname "$0")" && pwd)
dest=${DESTDIR:-}

install -D -m 0755 "$programs/hanode" "$dest/usr/bin/hanode"
install -D -m 0755 "$programs/hactl" "$dest/usr/bin/hactl"
manual=$(mktemp -d)
trap 'rm -rf "$manual"' EXIT
"$programs/hactl" manual "$manual"
"$programs/hanode" manual "$manual"
for page in "$manual"/man?/*; do
  section=${page##*.}
  install -d -m 0755 "$dest/usr/share/man/man$section"
  gzip -9n <"$page" >"$dest/usr/share/man/man$section/${page##*/}.gz"
done
for program in hactl hanode; do
  install -D -m 0644 "$manual/bash/$program.bash" "$dest/usr/share/bash-completion/completions/$program"
  install -D -m 0644 "$manual/zsh/_$program" "$dest/usr/share/zsh/vendor-completions/_$program"
  install -D -m 0644 "$manual/fish/$program.fish" "$dest/usr/share/fish/vendor_completions.d/$program.fish"
done
for unit in quorate.service quorate-members.service; do
  install -D -m 0644 "$here/$unit" "$dest/usr/lib/systemd/system/$unit"
done
install -d -m 0755 "$dest/etc/quorate"
# The example is the three-node file, so that it is checked by the tests.
install -m 0644 "$here/../cluster-configs/three-node.toml" "$dest/etc/quorate/hanode.toml.example"
if [ ! -e "$dest/etc/quorate/hanode.toml" ]; then
  install -m 0644 "$here/../cluster-configs/three-node.toml" "$dest/etc/quorate/hanode.toml"
fi
cat <<'TEXT'
Installed. Next, on every node:
  1. edit /etc/quorate/hanode.toml (the lines marked "this node", addresses, members)
  2. put the same secret into /etc/quorate/secret, mode 0600 (scripts/secret.sh makes one)
  3. systemctl daemon-reload && systemctl enable --now quorate quorate-members
TEXT
