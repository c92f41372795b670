"""`spire serve`: hostile requests, kills, signals in the middle of a job, few file descriptors."""

import json
import os
import resource
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

from hostile import ODD_JSON, mutated
from program import ROOT


class Server:
    """A server on a port of its own."""

    def __init__(self, campaign, port=0, descriptors=None):
        def prepare():
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        self.campaign = campaign
        self.log = open(campaign.scratch / "serve.log", "w+")
        self.child = subprocess.Popen(
            [campaign.program, "serve", "--port", str(port)], stdout=subprocess.PIPE, stderr=self.log, cwd=ROOT, text=True, preexec_fn=prepare
        )
        line = self.child.stdout.readline()
        self.url = next((word for word in line.split() if word.startswith("http://")), None)
        if self.url:
            self.url = self.url.split("?")[0].rstrip("/")
            self.port = int(self.url.rsplit(":", 1)[1])

    def ask(self, method, path, body=b"", kind="application/json", timeout=60):
        request = urllib.request.Request(self.url + path, data=body or None, method=method, headers={"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read()

    def fault(self):
        if self.child.poll() is not None:
            return f"the server ended with {self.child.returncode}"
        self.log.flush()
        with open(self.log.name) as log:
            return "panic in the log" if "panicked" in log.read() else None

    def end(self, number=signal.SIGKILL, within=20):
        """Ends the server; what is wrong with how it ended."""
        started = time.monotonic()
        self.child.send_signal(number)
        try:
            self.child.wait(within)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            return f"hang: signal {number} did not end it within {within} s"
        finally:
            self.child.stdout.close()
            self.log.close()
        seconds = time.monotonic() - started
        return None if number == signal.SIGKILL or seconds < within else f"slow: {seconds:.0f} s"


def form(fields, picture):
    boundary = b"----faults"
    body = b"".join(
        b"--" + boundary + b'\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n' + str(value).encode("utf-8", "surrogatepass") + b"\r\n"
        for name, value in fields.items()
    )
    body += b"--" + boundary + b'\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n' + picture + b"\r\n--" + boundary + b"--\r\n"
    return body, "multipart/form-data; boundary=----faults"


def hostile_requests(campaign, server, count):
    picture = (ROOT / "tests/pictures/scene.png").read_bytes()
    draw = campaign.random
    fields = ["semantic", "restoration", "steps", "guidance", "sampler", "seed", "variants", "strength", "upscale", "tile", "model", "colour_fix", "negative", "control_scale", "walk"]
    paths = ["/api/restore", "/api/degrade", "/api/prompt", "/api/jobs/x", "/api/scenes/99999999999999999999", "/api/scenes/1/picture", "/../../etc/passwd", "/%00", "/api/models"]
    for n in range(count):
        match n % 4:
            case 0:
                values = {name: draw.choice(ODD_JSON) for name in draw.sample(fields, 3)}
                body, kind = form({"steps": 1, **values}, picture)
                path = draw.choice(paths[:2])
            case 1:
                body, kind, path = json.dumps({name: draw.choice(ODD_JSON) for name in draw.sample(fields, 3)}).encode(), "application/json", draw.choice(paths)
            case 2:
                body, kind = form({"steps": 1}, picture)
                body, path = mutated(draw, body), "/api/restore"
            case 3:
                body, kind, path = mutated(draw, picture), draw.choice(["image/png", "application/json", "multipart/form-data", "x"]), draw.choice(paths)
        try:
            status, _ = server.ask(draw.choice(["POST", "POST", "POST", "PUT", "DELETE"]) if n % 4 else "POST", path, body, kind)
            fault = "an internal error (500)" if status == 500 else None
        except (OSError, ValueError):
            fault = None  # The connection was closed.
        campaign.count("hostile request", server.fault() or fault)
    for _ in range(count // 4):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(mutated(draw, b"POST /api/restore HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n" + bytes(50)))
        campaign.count("torn connection", server.fault())


def works(server):
    body, kind = form({"steps": 1}, (ROOT / "tests/pictures/scene.png").read_bytes())
    try:
        status, _ = server.ask("POST", "/api/restore", body, kind)
    except OSError as error:
        return f"no answer afterwards: {error}"
    return None if status in (200, 201, 202) else f"status {status} afterwards"


def busy(server):
    """Orders a long job, and returns while it runs."""
    body, kind = form({"steps": 200, "variants": 8}, (ROOT / "tests/pictures/scene.png").read_bytes())
    server.ask("POST", "/api/restore", body, kind)
    time.sleep(0.5)


def run(campaign):
    server = Server(campaign)
    hostile_requests(campaign, server, campaign.times(120))
    campaign.count("a restoration after hostile requests", server.fault() or works(server))
    port = server.port
    server.end()
    for number in [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]:
        for _ in range(campaign.times(2)):
            server = Server(campaign, port)
            if not server.url:
                campaign.count(f"serve again after {number.name}", "does not start again on its port")
                break
            busy(server)
            fault = server.fault()
            campaign.count(f"serve: {number.name} within a job", server.end(number) or fault)
    server = Server(campaign, descriptors=40)
    open_ones = []
    for _ in range(80):
        try:
            open_ones.append(socket.create_connection(("127.0.0.1", server.port), timeout=1))
        except OSError:
            pass
    campaign.count("serve: 80 connections with 40 file descriptors", server.fault())
    for connection in open_ones:
        connection.close()
    time.sleep(1)
    campaign.count("serve: a restoration after that", server.fault() or works(server))
    server.end()
