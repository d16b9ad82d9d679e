#!/usr/bin/env python3
"""Shows and checks a cluster by server reflection alone: no .proto file, no generated code.

    reflection.py [--endpoint HOST:PORT] services
    reflection.py [--endpoint HOST:PORT] status
    reflection.py [--endpoint HOST:PORT] watch [--count N]
    reflection.py [--endpoint HOST:PORT] switchover CLUSTER [--to MEMBER]

The node describes its own messages (grpc.reflection.v1alpha), so that a tool works with every
version. The switchover is a dry run. See stubs.py for a client with generated stubs.
"""

import argparse
import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVICE = "quorate.v1.ControlPlane"
DEADLINE_S = 5


class Node:
    """A node, and what it says about its own API."""

    def __init__(self, endpoint):
        self.channel = grpc.insecure_channel(endpoint)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = DescriptorPool(self.database)

    def method(self, name):
        """The named call of the service, and the class of its request."""
        service = self.pool.FindServiceByName(SERVICE)
        method = service.FindMethodByName(name)
        request = GetMessageClass(method.input_type)
        answer = GetMessageClass(method.output_type)
        make = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        call = make(f"/{SERVICE}/{name}", request_serializer=request.SerializeToString,
                    response_deserializer=answer.FromString)
        return call, request

    def call(self, name, deadline_s=DEADLINE_S, **fields):
        call, request = self.method(name)
        return call(request(**fields), timeout=deadline_s)


def leaders(endpoint):
    """The node that leads: the one that was asked, or the one that it names."""
    node = Node(endpoint)
    try:
        node.call("GetStatus", linearizable=True)
        return node
    except grpc.RpcError as error:
        leader = dict(error.trailing_metadata() or ()).get("quorate-leader")
        if not leader:
            raise
        return Node(leader)


def show(message):
    """Any message as text, whatever its fields are."""
    print(json_format.MessageToJson(message, preserving_proto_field_name=True), flush=True)


def services(args):
    node = Node(args.endpoint)
    for name in sorted(node.database.get_services()):
        print(name)
        for method in node.pool.FindServiceByName(name).methods:
            stream = "stream of " if method.server_streaming else ""
            print(f"  {method.name}({method.input_type.name}) -> {stream}{method.output_type.name}")


def status(args):
    show(leaders(args.endpoint).call("GetStatus", linearizable=True))


def watch(args):
    stream = leaders(args.endpoint).call("WatchStatus", deadline_s=None, from_leader=True,
                                         heartbeat_ms=1000)
    for seen, message in enumerate(stream, start=1):
        show(message)
        if seen == args.count:
            stream.cancel()
            break


def switchover(args):
    answer = leaders(args.endpoint).call("Switchover", cluster=args.cluster, target=args.to,
                                         dry_run=True)
    show(answer)
    sys.exit(1 if answer.problems else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", default="127.0.0.1:7400", metavar="HOST:PORT")
    verbs = parser.add_subparsers(required=True)
    verbs.add_parser("services").set_defaults(run=services)
    verbs.add_parser("status").set_defaults(run=status)
    verb = verbs.add_parser("watch")
    verb.add_argument("--count", type=int, default=0, help="end after so many messages")
    verb.set_defaults(run=watch)
    verb = verbs.add_parser("switchover")
    verb.add_argument("cluster")
    verb.add_argument("--to", default="", metavar="MEMBER", help="the best standby if left out")
    verb.set_defaults(run=switchover)
    args = parser.parse_args()
    try:
        args.run(args)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
