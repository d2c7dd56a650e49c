"""A gRPC service behind the gate, and its client: PORT of the service, ADDRESS of the gate, one word per case.

Messages are bytes as they stand, so that no `.proto` has to be compiled."""

import sys
import time
from concurrent import futures

import grpc

port, gate, case, key = sys.argv[1:5]


class Service(grpc.GenericRpcHandler):
    def service(self, details):
        return {
            "/test.Echo/Unary": grpc.unary_unary_rpc_method_handler(unary),
            "/test.Echo/Down": grpc.unary_stream_rpc_method_handler(down),
            "/test.Echo/Up": grpc.stream_unary_rpc_method_handler(up),
            "/test.Echo/Both": grpc.stream_stream_rpc_method_handler(both),
            "/test.Echo/Slow": grpc.stream_unary_rpc_method_handler(slow),
            "/test.Echo/Fails": grpc.unary_unary_rpc_method_handler(fails),
            "/test.Echo/Forever": grpc.unary_stream_rpc_method_handler(forever),
        }.get(details.method)


def unary(request, context):
    context.set_trailing_metadata((("x-sum", "7"), ("x-bin-bin", b"\x00\xff")))
    return request + b" " + b" ".join(v.encode() for k, v in context.invocation_metadata() if k == "x-said")


def down(request, context):
    for part in request.split():
        yield part


def up(requests, context):
    return b" ".join(requests)


def both(requests, context):
    for request in requests:
        yield request.upper()


def slow(requests, context):
    said = b" ".join(requests)
    time.sleep(6)
    return said


def fails(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100 % sure")


def forever(request, context):
    while context.is_active():
        yield b"tick"
        time.sleep(0.05)


def status(call):
    try:
        call()
        return "OK"
    except grpc.RpcError as error:
        return f"{error.code().value[0]} {error.code().name} {error.details()}"


server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((Service(),))
assert server.add_insecure_port(f"127.0.0.1:{port}")
server.start()
channel = grpc.insecure_channel(gate)
meta = [("authorization", f"Bearer {key}")] if key else []

if case == "shapes":
    answer, call = channel.unary_unary("/test.Echo/Unary").with_call(b"one", metadata=meta + [("x-said", "meta")])
    trailers = {k: v for k, v in call.trailing_metadata()}
    print(answer.decode(), trailers["x-sum"], trailers["x-bin-bin"].hex())
    print(*[part.decode() for part in channel.unary_stream("/test.Echo/Down")(b"a b c", metadata=meta)])
    print(channel.stream_unary("/test.Echo/Up")(iter([b"d", b"e"]), metadata=meta).decode())
    # One message is answered before the next is sent.
    said = []
    answers = channel.stream_stream("/test.Echo/Both")((said.append(m) or m for m in [b"f", b"g"]), metadata=meta)
    print(*[answer.decode() for answer in answers])
    print(status(lambda: channel.unary_unary("/test.Echo/Fails")(b"", metadata=meta)))
elif case == "deadlines":
    # The service answers after 6 s, which is more than the gate waits for others.
    slow_call = channel.stream_unary("/test.Echo/Slow")
    print(status(lambda: slow_call(iter([b"x"]), metadata=meta, timeout=20)))
    print(status(lambda: slow_call(iter([b"x"]), metadata=meta, timeout=0.5)))
    print(status(lambda: slow_call(iter([b"x"]), metadata=meta)))

    def late():
        time.sleep(6)
        yield b"x"

    print(status(lambda: channel.stream_unary("/test.Echo/Up")(late(), metadata=meta)))
elif case == "ends":
    ticks = 0
    try:
        for _ in channel.unary_stream("/test.Echo/Forever")(b"", metadata=meta):
            ticks += 1
            if ticks == 1:
                print("begun", flush=True)
    except grpc.RpcError as error:
        print(f"ended {error.code().name} {error.details()}")
else:
    print(status(lambda: channel.unary_unary(f"/test.Echo/{case}")(b"x", metadata=meta, timeout=20)))
server.stop(None)
