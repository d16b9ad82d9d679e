#!/usr/bin/env bash
# The life of the Debian package, in a root of its own (see root.sh): installed, configured,
# started, upgraded over a running cluster, removed, installed again, purged.
set -euo pipefail

old=/tmp/test/old.deb new=/tmp/test/new.deb
config=/etc/quorate/hanode.toml
pgdata=/var/lib/quorate/main
socket=/run/quorate/main.a/socket

step() { printf '%s\n' "-- $*" >&2; }
fail() {
  printf '%s\n' "FAILED: $*" >&2
  echo "---- log of the daemon" >&2
  tail -n 60 /var/log/quorate.service.log >&2 || true
  echo "---- log of PostgreSQL" >&2
  cat /var/log/quorate/main/*.log 2>/dev/null | tail -n 20 >&2 || true
  exit 1
}
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR

# Tries a command again until it succeeds: until_true WHAT COMMAND...
until_true() {
  local what=$1 end=$((SECONDS + 90))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || fail "waited in vain: $what"
    sleep 0.1
  done
}
gone() { if [ -e "$1" ] || [ -L "$1" ]; then fail "$1 is still there"; fi; }
there() { [ -e "$1" ] || fail "$1 is not there"; }
# How many processes of this name there are.
count() { pgrep -xc "$1" || true; }
daemons() { count hanode; }
sql() { PGPASSWORD=superuser-of-the-test psql -XAtq -h "$socket" -U postgres -d postgres -c "$1"; }
open_for_writes() { [ "$(sql 'SELECT pg_is_in_recovery()')" = f ]; }
# The processes of the server: guard and first process of the namespace with their starts, and the
# postmaster's number inside.
tree() {
  grep -oE '"(guard|init)_(pid|starttime)": *[0-9]+' /run/quorate/main.a.guard/guard.json
  head -n 1 "$pgdata/postmaster.pid"
}
state_of_control_file() {
  "$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -n 1)/pg_controldata" "$pgdata" |
    sed -n 's/^Database cluster state: *//p'
}

step "installed: everything is in place, nothing is started"
before=$(daemons)
dpkg -i "$old" >/tmp/test/install.log 2>&1 || fail "$(cat /tmp/test/install.log)"
grep -q 'nothing is started yet' /tmp/test/install.log
[ "$(daemons)" = "$before" ]
dpkg-deb -c "$old" >/tmp/test/contents
for file in /usr/bin/hanode /usr/bin/hactl /usr/lib/systemd/system/quorate.service \
  /usr/lib/systemd/system/quorate-members.service /usr/share/man/man1/hactl-status.1.gz \
  /usr/share/man/man8/hanode.8.gz /usr/share/bash-completion/completions/hactl \
  /usr/share/zsh/vendor-completions/_hactl /usr/share/fish/vendor_completions.d/hactl.fish \
  /etc/quorate/hactl.toml /etc/quorate/hanode.toml.example; do
  # Minimal systems tell dpkg to leave manual pages out.
  case $file in /usr/share/man/*) grep -q "$file" /tmp/test/contents ;; *) there "$file" ;; esac
done
bash -n /usr/share/bash-completion/completions/hactl
gone "$config"
grep -q /etc/quorate/hactl.toml <(dpkg-query -W -f '${Conffiles}' quorate)
grep -q libc6 <(dpkg-query -W -f '${Depends}' quorate)

step "started without a configuration: nothing runs"
systemctl start quorate 2>/tmp/test/start.log
grep -q 'condition failed' /tmp/test/start.log
[ "$(daemons)" = "$before" ]

step "configured and started: a cluster of one node comes up"
install -m 0600 /dev/null /etc/quorate/secret
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >/etc/quorate/secret
install -m 0600 /dev/null /etc/quorate/superuser
echo superuser-of-the-test >/etc/quorate/superuser
# The times are long, so that a slow machine is no reason for a takeover.
cat >"$config" <<'TOML'
control_plane = "test"
secret_file = "secret"
[node]
name = "n1"
roles = ["controller", "agent"]
listen = "127.0.0.1:7400"
data_dir = "/var/lib/quorate"
run_dir = "/run/quorate"
[raft]
node_id = 1
[[controller]]
id = 1
name = "n1"
address = "127.0.0.1:7400"
[timing]
ttl_ms = 60000
suspect_ms = 50000
[[cluster]]
name = "main"
bootstrap_members = ["a"]
hba = ["host all all 127.0.0.0/8 scram-sha-256"]
[[member]]
cluster = "main"
name = "a"
address = "127.0.0.1:5432"
data_dir = "/var/lib/quorate/main"
log_dir = "/var/log/quorate/main"
superuser_password_file = "superuser"
TOML
echo 'cluster = "main"' >>/etc/quorate/hactl.toml
hanode check --config "$config"
systemctl start quorate quorate-members
until_true "the cluster opens for writes" open_for_writes
hactl status
epoch=$(hactl status -o json | sed -n 's/^ *"epoch": *\([0-9]*\).*/\1/p' | head -n 1)
sql "CREATE ROLE app LOGIN PASSWORD 'app'; CREATE TABLE rows (n int); GRANT ALL ON rows TO app"

step "a client writes, on a new connection each time"
dsn=$(hactl dsn -U app)
(
  trap - ERR
  n=0
  while [ ! -e /tmp/test/enough ]; do
    n=$((n + 1))
    if PGPASSWORD=app psql -XAtq "$dsn" -c "INSERT INTO rows VALUES ($n)" >/dev/null 2>>/tmp/test/refused; then
      echo "$n" >>/tmp/test/written
    fi
  done
) &
writer=$!
written() { wc -l </tmp/test/written 2>/dev/null || echo 0; }
more_than() { [ "$(written)" -gt "$1" ]; }
until_true "rows are written" more_than 10

step "upgraded: another daemon, the same PostgreSQL, no write was refused"
tree >/tmp/test/tree
pid=$(cat /run/fake-systemd/quorate.service.pid)
dpkg -i "$new" >/tmp/test/upgrade.log 2>&1 || fail "$(cat /tmp/test/upgrade.log)"
[ "$(cat /run/fake-systemd/quorate.service.pid)" != "$pid" ]
[ "$(dpkg-query -W -f '${Version}' quorate)" = "$(dpkg-deb -f "$new" Version)" ]
until_true "rows are written after the upgrade" more_than $(($(written) + 20))
until_true "the same epoch goes on" bash -c "hactl status | grep -q 'epoch $epoch, primary a, lease renewed'"
tree | diff - /tmp/test/tree
grep -q '^cluster = "main"' /etc/quorate/hactl.toml || fail "the operator's file was overwritten"
if grep -q 'quorate-members' /run/fake-systemd/calls && grep -qE '^(re)?start.*members' <(tail -n 3 /run/fake-systemd/calls); then
  fail "the members were restarted"
fi

step "upgraded with a file that the new version refuses: the old daemon goes on"
pid=$(cat /run/fake-systemd/quorate.service.pid)
cp "$config" /tmp/test/good.toml
echo 'nonsense = 1' | cat - /tmp/test/good.toml >"$config"
dpkg -i "$new" >/tmp/test/refused.log 2>&1 || fail "$(cat /tmp/test/refused.log)"
grep -q 'the old version goes on' /tmp/test/refused.log
grep -q nonsense /tmp/test/refused.log
[ "$(cat /run/fake-systemd/quorate.service.pid)" = "$pid" ] && [ -d "/proc/$pid" ]
cp /tmp/test/good.toml "$config"
until_true "rows are written still" more_than $(($(written) + 10))
touch /tmp/test/enough
wait "$writer"
[ ! -s /tmp/test/refused ] || fail "writes were refused: $(cat /tmp/test/refused)"
[ "$(sql 'SELECT count(*) FROM rows')" = "$(written)" ] || fail "rows are missing"

step "removed: PostgreSQL was stopped in order; configuration and state stay"
dpkg --remove quorate >/tmp/test/remove.log 2>&1 || fail "$(cat /tmp/test/remove.log)"
[ "$(daemons)" = 0 ] || fail "$(pgrep -xa hanode)"
[ "$(count postgres)" = 0 ] || fail "$(pgrep -xa postgres)"
[ "$(state_of_control_file)" = "shut down" ] || fail "$(state_of_control_file)"
gone /usr/bin/hanode
for file in "$config" /etc/quorate/secret /etc/quorate/hactl.toml /var/lib/quorate/raft; do
  there "$file"
done

step "installed again: the same data comes back"
dpkg -i "$new" >/tmp/test/again.log 2>&1 || fail "$(cat /tmp/test/again.log)"
systemctl start quorate quorate-members
until_true "the cluster opens for writes again" open_for_writes
[ "$(sql 'SELECT count(*) FROM rows')" = "$(written)" ]

step "purged while it runs: stopped in order, everything of the package is gone, PGDATA stays"
mkdir /var/lib/quorate/other && cp -a "$pgdata/PG_VERSION" /var/lib/quorate/other/
dpkg --purge quorate >/tmp/test/purge.log 2>&1 || fail "$(cat /tmp/test/purge.log)"
dpkg-deb -c "$old" >/tmp/test/contents
for file in /usr/bin/hanode /usr/bin/hactl /usr/lib/systemd/system/quorate.service /etc/quorate \
  /var/lib/quorate/raft /var/lib/quorate/member /var/lib/quorate/hanode.pid /var/log/quorate /run/quorate; do
  gone "$file"
done
there "$pgdata/PG_VERSION"
there /var/lib/quorate/other/PG_VERSION
[ "$(state_of_control_file)" = "shut down" ] || fail "$(state_of_control_file)"
[ "$(count postgres)" = 0 ] || fail "$(pgrep -xa postgres)"
grep -q 'never removed' /tmp/test/purge.log
step "all steps passed in $SECONDS s"
