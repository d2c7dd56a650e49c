"""A WebSocket service behind the gate, and its clients: PORT of the service, URL through the gate, KEY, and the
certificate of one.example, which the gate shows where the URL says `wss`."""

import ssl
import sys
import threading

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

port, url, key, certificate = int(sys.argv[1]), *sys.argv[2:5]
tls = {}
if url.startswith("wss:"):
    tls = {"ssl": ssl.create_default_context(cafile=certificate), "server_hostname": "one.example"}


def echo(connection):
    for message in connection:
        if message == "bye":
            connection.close(4000, "bye")
        else:
            connection.send(message)


server = serve(echo, "127.0.0.1", port)
threading.Thread(target=server.serve_forever, daemon=True).start()
try:
    connect(url, **tls)
except InvalidStatus as denied:
    said = f"denied {denied.response.status_code}"
with connect(url, additional_headers={"Authorization": f"Bearer {key}"}, **tls) as client:
    for message in ["text", b"bytes", "x" * 1_000_000]:
        client.send(message)
        assert client.recv() == message
    client.send("bye")
    try:
        client.recv()
    except ConnectionClosed as closed:
        print(f"{said}, echoed, closed {closed.rcvd.code}")
server.shutdown()
