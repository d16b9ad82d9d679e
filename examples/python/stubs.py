#!/usr/bin/env python3
"""Shows and changes a cluster through stubs that are generated from proto/ when it starts.

    stubs.py [--endpoint HOST:PORT]... status
    stubs.py [--endpoint HOST:PORT]... watch [--count N]
    stubs.py [--endpoint HOST:PORT]... switchover CLUSTER [--to MEMBER] [--really]

Every node answers, but only the leader of the control plane knows how the members are doing and
takes changes. Elsewhere such a call fails with UNAVAILABLE, and names the leader's address in the
metadata `quorate-leader`: `to_leader` follows it.
"""

import argparse
import importlib.resources
import pathlib
import sys
import tempfile

import grpc
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
DEADLINE_S = 5


def generate():
    """Compiles the public API and returns its modules: messages and service."""
    out = tempfile.mkdtemp(prefix="quorate-stubs-")
    google = importlib.resources.files("grpc_tools") / "_proto"
    files = sorted(str(f) for f in PROTO.glob("quorate/v1/*.proto"))
    code = protoc.main(["protoc", f"-I{PROTO}", f"-I{google}", f"--python_out={out}",
                        f"--grpc_python_out={out}", *files])
    if code != 0:
        sys.exit(f"protoc ended with {code}")
    sys.path.insert(0, out)
    from quorate.v1 import control_plane_pb2, control_plane_pb2_grpc, status_pb2
    return control_plane_pb2, control_plane_pb2_grpc, status_pb2


pb, rpc, status_pb = generate()


def leader_of(error):
    """The leader's address, where the error names it."""
    metadata = dict(error.trailing_metadata() or ())
    return metadata.get("quorate-leader") if error.code() == grpc.StatusCode.UNAVAILABLE else None


def to_leader(endpoints, call):
    """Calls the first endpoint that answers, and the leader where that names it."""
    left, error = list(reversed(endpoints)), None
    for _ in range(2 * len(endpoints) + 2):
        if not left:
            break
        endpoint = left.pop()
        with grpc.insecure_channel(endpoint) as channel:
            try:
                return call(rpc.ControlPlaneStub(channel))
            except grpc.RpcError as e:
                error, leader = e, leader_of(e)
                if leader:
                    left.append(leader)
                elif e.code() != grpc.StatusCode.UNAVAILABLE:
                    break
    sys.exit(f"{error.code().name}: {error.details()}" if error else "no endpoint")


def show(status):
    """Prints a status, a line for each member."""
    role = status_pb.MemberRole.Name
    for cluster in status.clusters:
        print(f"{cluster.name}: epoch {cluster.epoch}, primary {cluster.primary or 'NONE'}")
        for member in cluster.members:
            # A field that may be absent is asked for: 0 bytes and unknown are not the same.
            lag = f"{member.lag_bytes} bytes" if member.HasField("lag_bytes") else "-"
            name = role(member.role).removeprefix("MEMBER_ROLE_").lower()
            print(f"  {member.name:12} {name:10} lag {lag}")


def status(args):
    request = pb.GetStatusRequest(linearizable=True)
    answer = to_leader(args.endpoint, lambda c: c.GetStatus(request, timeout=DEADLINE_S))
    show(answer.status)


def watch(args):
    """Shows each change: the stream sends whole statuses, and a heartbeat where nothing changed."""
    def follow(client):
        seen = 0
        for message in client.WatchStatus(pb.WatchStatusRequest(from_leader=True, heartbeat_ms=1000)):
            print("heartbeat" if message.heartbeat else "change", flush=True)
            if not message.heartbeat:
                show(message.status)
            seen += 1
            if seen == args.count:
                break
    to_leader(args.endpoint, follow)


def switchover(args):
    request = pb.SwitchoverRequest(cluster=args.cluster, target=args.to, dry_run=not args.really,
                                   wait=True, requested_by="examples/python/stubs.py")
    answer = to_leader(args.endpoint, lambda c: c.Switchover(request, timeout=90))
    for problem in answer.problems:
        print(f"{problem.message} (rule {problem.rule})")
    if answer.problems:
        sys.exit(1)
    if answer.HasField("operation"):
        print(f"operation {answer.operation.id}: {answer.operation.primary} is primary")
    else:
        print(f"nothing stands against it: {answer.target} would be promoted")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", action="append", metavar="HOST:PORT")
    verbs = parser.add_subparsers(required=True)
    verbs.add_parser("status").set_defaults(run=status)
    verb = verbs.add_parser("watch")
    verb.add_argument("--count", type=int, default=0, help="end after so many messages")
    verb.set_defaults(run=watch)
    verb = verbs.add_parser("switchover")
    verb.add_argument("cluster")
    verb.add_argument("--to", default="", metavar="MEMBER", help="the best standby if left out")
    verb.add_argument("--really", action="store_true", help="do it; without, only check")
    verb.set_defaults(run=switchover)
    args = parser.parse_args()
    args.endpoint = args.endpoint or ["127.0.0.1:7400"]
    args.run(args)


if __name__ == "__main__":
    main()
