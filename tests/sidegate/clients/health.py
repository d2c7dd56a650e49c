"""A gRPC server that answers the health protocol: `good` and the whole server serve, `bad` does not, others are unknown."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc


def check(request, context):
    # The message is a field with its length, or empty.
    service = request[2:].decode()
    if service not in ("", "good", "bad"):
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return b"\x08\x02" if service == "bad" else b"\x08\x01"


server = grpc.server(ThreadPoolExecutor(2))
handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
server.stop(None)
