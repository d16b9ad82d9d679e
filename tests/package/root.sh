#!/usr/bin/env bash
# Runs lifecycle.sh in a root of its own: this machine's file system with a layer above it that is
# thrown away, and its own processes, network and /run. The machine itself is not changed.
#   root.sh OLD_PACKAGE NEW_PACKAGE
# Needs root.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
old=$(readlink -f "$1") new=$(readlink -f "$2")
work=$(mktemp -d)
# The mounts end with their namespace.
trap 'rmdir "$work"' EXIT

# The end of this process ends the first of the namespace, and with it everything inside.
unshare --mount --net --pid --fork --kill-child --propagation private \
  bash -euo pipefail -s "$work" "$here" "$old" "$new" <<'OUTER'
work=$1 here=$2 old=$3 new=$4
mount -t tmpfs -o mode=0755 tmpfs "$work"
mkdir "$work"/upper "$work"/layer "$work"/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/layer" "$work/root"
root=$work/root
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/dev/shm"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
for dir in run tmp; do
  mount -t tmpfs -o mode=1777 tmpfs "$root/$dir"
done
chmod 755 "$root/run"
ip link set lo up

# What a machine that has the package already would bring along is not there.
rm -rf "$root"/etc/quorate "$root"/var/lib/quorate "$root"/var/log/quorate
# Its index of all manual pages would be made anew by every step.
rm -f "$root/var/lib/man-db/auto-update"
install -D -m 0755 "$here/systemctl" "$root/usr/local/sbin/systemctl"
mkdir -p "$root/run/systemd/system" "$root/tmp/test"
cp "$old" "$root/tmp/test/old.deb"
cp "$new" "$root/tmp/test/new.deb"
cp "$here/lifecycle.sh" "$root/tmp/test/"
mkdir "$root/mnt/old"
cd "$root"
pivot_root . mnt/old
umount -l /mnt/old
# A first process that takes the dead of the namespace; it ends with the test.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
bash /tmp/test/lifecycle.sh
OUTER
