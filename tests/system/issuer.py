"""A small issuer of tokens as Kafka's unsecured validator takes them, and of an issuer's refusals."""

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote_plus


def part(fields: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


def unsecured(subject: str, seconds: float, **more: object) -> str:
    now = time.time()
    return f"{part({'alg': 'none'})}.{part({'sub': subject, 'iat': now - 1, 'exp': now + seconds, **more})}."


class Issuer:
    """Gives a token to who shows the client's id and secret. `answer`, if set, is given instead: status and body."""

    def __init__(self, url: str, seconds: float) -> None:
        self.url = url
        self.seconds = seconds
        self.client, self.secret = "gate", "s3cr:t/+ &"
        self.answer: tuple[int, bytes] | None = None
        self.claims: dict[str, object] = {}
        self.forms: list[dict[str, list[str]]] = []

    def ask(self, authorization: str, form: dict[str, list[str]]) -> tuple[int, bytes]:
        self.forms.append(form)
        if self.answer is not None:
            return self.answer
        name, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        if (unquote_plus(name), unquote_plus(secret)) != (self.client, self.secret):
            said = {"error": "invalid_client", "error_description": f"no client has the secret {unquote_plus(secret)}"}
            return 401, json.dumps(said).encode()
        token = unsecured(self.client, self.seconds, **self.claims)
        return 200, json.dumps({"access_token": token, "expires_in": self.seconds, "token_type": "Bearer"}).encode()


@contextmanager
def issuer(seconds: float, tls: ssl.SSLContext | None = None) -> Iterator[Issuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            status, body = made.ask(self.headers.get("Authorization", ""), form)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        made = Issuer(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}/oauth2/token", seconds)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
