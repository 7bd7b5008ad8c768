"""Stands for whoever has the effects: takes each job once, by its key, and says what it got. For trying it out."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer

seen: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        key = self.headers.get("Idempotency-Key", "")
        payload = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(errors="replace")
        print(f"{key}: {'again, nothing done' if key in seen else payload}", flush=True)
        seen.add(key)
        self.send_response(204)
        self.end_headers()


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", 9000), Handler).serve_forever()
