"""A web server that knows nothing of graced, for `graced.workers:Program`.

    pools:
      greeter:
        worker: graced.workers:Program
        workers: 2
        listen: tcp://127.0.0.1:8001
        options:
          argv: [python3, examples/greeter.py, "{pool}/{slot}"]
          ready: notify

It serves the socket that it is handed, as a service of systemd's does (sd_listen_fds(3)), says
when it is ready (sd_notify(3)), and on SIGTERM finishes the request in hand.
"""

from __future__ import annotations

import http.server
import os
import selectors
import signal
import socket
import sys


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"hello from {sys.argv[1]}, {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGTERM, lambda *_: None)
    server = http.server.HTTPServer(("", 0), Hello, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=3)
    server.socket.setblocking(False)  # another program may have taken what woke this one
    notify("READY=1")
    with selectors.DefaultSelector() as selector:
        selector.register(wake, selectors.EVENT_READ)
        selector.register(server.socket, selectors.EVENT_READ)
        while wake not in [key.fd for key, _ in selector.select()]:
            server.handle_request()
    print("asked to stop", flush=True)


def notify(text: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(text.encode(), address.replace("@", "\0", 1))


if __name__ == "__main__":
    main()
