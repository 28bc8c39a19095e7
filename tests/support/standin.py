"""A stand-in for a service, for tests of who starts it: `standin.py store|rules|sync|webhook|…`.

It is healthy where the service would be, writes the names of its settings, and ends when told to,
unless STANDIN_STUBBORN names it; STANDIN_BROKEN makes it fail at once.
"""

import http.server
import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


class Edge(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()


def serve_http(listen: str) -> None:
    host, _, port = listen.rpartition(":")
    server = http.server.ThreadingHTTPServer((host, int(port)), Edge)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def serve_health(listen: str) -> None:
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(listen)
    server.start()


def main(name: str) -> None:
    if os.environ.get("STANDIN_BROKEN") == name:
        sys.exit("why it failed")
    sys.stdout.write(json.dumps(sorted(os.environ)) + "\n")
    sys.stdout.flush()
    told = threading.Event()
    stubborn = os.environ.get("STANDIN_STUBBORN") == name
    signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else lambda *_: told.set())
    if name == "webhook":
        serve_http(os.environ["WEBHOOK_LISTEN"])
        serve_http(os.environ["OPERATOR_LISTEN"])
    elif name == "simulator":
        serve_http(os.environ["SIMULATOR_LISTEN"])
    else:
        serve_health(os.environ[f"{name.upper()}_LISTEN"])
    told.wait()
    os._exit(0)  # grpc's own threads need not be waited for


if __name__ == "__main__":
    main(sys.argv[1])
