"""A container engine's socket, as far as `spelt respond` asks: one network, and events, in the engine's way of HTTP."""

import contextlib
import json
import os
import socket
import threading


class FakeEngine:
    """Network `name` with these addresses; others are not there."""

    def __init__(self, path, *addresses, name="web"):
        self.path, self.addresses, self.name, self.listeners, self.lists = path, addresses, name, [], 0
        self.start()

    def start(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(self.path)
        self.socket.listen(16)
        threading.Thread(target=self.serve, args=(self.socket,), daemon=True).start()

    def stop(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for listener in self.listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.listeners = []

    close = stop

    def change(self, *addresses):
        """Containers come and go, of which each makes several events."""
        self.addresses = addresses
        for listener in self.listeners:
            for action in ("connect", "start"):
                listener.sendall(chunk(json.dumps({"Type": "network", "Action": action}).encode() + b"\n"))

    def serve(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.answer(client)

    def answer(self, client):
        request = b""
        while b"\r\n\r\n" not in request:
            request += client.recv(4096)
        path = request.split()[1].decode()
        if path.startswith("/events?filters=%7B%22type"):
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.listeners.append(client)
            return
        if path == f"/networks/{self.name}":
            self.lists += 1
            containers = {str(i): {f"IPv{6 if ':' in a else 4}Address": a} for i, a in enumerate(self.addresses)}
            body = json.dumps({"Name": self.name, "Containers": containers}).encode()
            client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(body[:7]) + chunk(body[7:]) +
                           b"0\r\n\r\n")
        else:
            client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")
        client.close()


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)
