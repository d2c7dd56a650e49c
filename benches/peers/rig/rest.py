"""What wrk does not measure: memory with idle connections, and TLS handshakes."""

import socket
import ssl
import time


def handshakes(field, contender, count):
    """CPU-µs of the server for one full handshake; the client never offers a session to resume."""
    context = ssl._create_unverified_context()
    before = contender.process.cpu_us()
    for _ in range(count):
        with context.wrap_socket(socket.create_connection(("127.0.0.1", contender.port))) as stream:
            stream.getpeercert()
    time.sleep(0.05)
    return (contender.process.cpu_us() - before) / count


def idle_connections(field, contender, count, tls=False):
    """KiB that one more connection costs, once it has had an answer and is silent; and how many were still open then."""
    context = ssl._create_unverified_context() if tls else None
    key = f"Authorization: Bearer {field.hot}\r\n" if contender.full else ""
    request = f"GET {contender.path} HTTP/1.1\r\nHost: 127.0.0.1:{contender.port}\r\n{key}\r\n".encode()
    before, streams = contender.process.rss_kib(), []
    try:
        for _ in range(count):
            stream = socket.create_connection(("127.0.0.1", contender.port), 5)
            if context:
                stream = context.wrap_socket(stream)
            stream.sendall(request)
            whole(stream)
            streams.append(stream)
        time.sleep(0.3)
        after = contender.process.rss_kib()
        return (after - before) / count, sum(is_open(stream) for stream in streams)
    finally:
        for stream in streams:
            stream.close()


def whole(stream):
    """Reads one answer of 1 KiB with its head."""
    got = b""
    while not (end := got.find(b"\r\n\r\n") + 1) or len(got) < end + 3 + 1024:
        more = stream.recv(8192)
        if not more:
            raise SystemExit("a connection was closed before its answer had come")
        got += more


def is_open(stream):
    stream.settimeout(0)
    try:
        return stream.recv(1) != b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
