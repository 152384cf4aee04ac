"""What alerts are made of and sent to in tests: real servers that answer as told."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gate.admission.model import Event, EventKind, Reason
from gate.client._alert import Alert
from gate.observe.alerts import AlertRecord, of_event

SINCE = 1_764_025_122_456_000_000


def breach(service="payments", kind=EventKind.OPENED, **fields):
    known = {
        "limit": f"{service}.window.60s",
        "reason": Reason.WINDOW,
        "at": SINCE + 1_000_000_000,
        "since": SINCE,
        "refused": 12,
        "offered_per_second": 180.54,
        "backlog": 12,
        "eta_seconds": 42.4,
        "usage": 1.0,
        "policy": "9f2c01",
    }
    return of_event(Event(kind=kind, service=service, **(known | fields)))


def alert_of(record: AlertRecord) -> Alert:
    return Alert.of(record)  # it has the fields that are read


class Receiver:
    """A real HTTP server that answers as told, 204 when it was told nothing."""

    def __init__(self):
        self.answers, self.headers, self.bodies, self.got = [], [], [], []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.headers.append(dict(self.headers))
                receiver.bodies.append(body)
                status, headers = receiver.answers.pop(0) if receiver.answers else (204, {})
                receiver.got.append((status, json.loads(body)))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?secret=1"

    @property
    def taken(self):
        return [alert["id"] for status, alert in self.got if status < 300]
