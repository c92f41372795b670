"""What `spire serve` does under load: many restorations at once, hostile pictures, uploads and connections that break off.
Prints the answers by status and the memory of the process, which it reads from /proc (Linux). Needs numpy and Pillow.

    spire serve --port 7956
    python scripts/bench/playground.py 7956 PID
"""

import collections
import http.client
import io
import os
import random
import socket
import sys
import threading
import time

import numpy
from PIL import Image

PORT, PID = int(sys.argv[1]), int(sys.argv[2])
BOUNDARY = {"Content-Type": "multipart/form-data; boundary=x"}
random.seed(1)


def form(picture: bytes, **fields: object) -> bytes:
    head = "".join(f'--x\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items())
    head += '--x\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n'
    return head.encode() + picture + b"\r\n--x--\r\n"


def post(path: str, body: bytes, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=600)
    connection.request("POST", path, body, {**BOUNDARY, **headers})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def memory() -> str:
    with open(f"/proc/{PID}/status") as file:
        status = dict(line.split(":", 1) for line in file)
    now, peak = (int(status[key].split()[0]) // 1024 for key in ("RssAnon", "VmHWM"))
    return f"{now} MiB, at most {peak} MiB, {len(os.listdir(f'/proc/{PID}/fd'))} open files"


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def hundred_at_once() -> str:
    statuses = collections.Counter()

    def one(number: int) -> None:
        body = form(png, steps=20, seed=number)
        statuses[post("/api/restore", body, Accept="image/png", **{"X-Visit": str(number % 4)})] += 1

    start = time.monotonic()
    threads = [threading.Thread(target=one, args=[number]) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return f"{dict(statuses)} in {time.monotonic() - start:.0f} s"


def damaged(number: int) -> bytes:
    """A picture that is cut, has changed bytes, a changed head, or random bytes behind its head."""
    data = bytearray(random.choice(files))
    match number % 4:
        case 0:
            return bytes(data[: random.randrange(len(data))])
        case 1:
            for _ in range(random.randrange(1, 30)):
                data[random.randrange(len(data))] = random.randrange(256)
        case 2:
            for _ in range(random.randrange(1, 6)):
                data[random.randrange(min(len(data), 64))] = random.choice([0, 255, 127, 128])
        case _:
            return bytes(data[: random.randrange(1, 80)]) + random.randbytes(random.randrange(3000))
    return bytes(data)


def broken_off(sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", PORT))
    connection.sendall(sent)
    return connection


picture = Image.fromarray((numpy.random.RandomState(0).rand(64, 64, 3) * 255).astype("uint8"))
png, files = encoded("PNG"), [encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
print("start:", memory())
print("100 restorations at once:", hundred_at_once(), "|", memory())
answers = collections.Counter(post("/api/degrade", form(damaged(n), prompt="Deblur with sigma 1.0")) for n in range(1000))
print("1000 hostile pictures:", dict(answers), "|", memory())

body = form(png, steps=20)
head = f"POST /api/restore HTTP/1.1\r\nHost: localhost:{PORT}\r\nContent-Type: {BOUNDARY['Content-Type']}\r\n"
request = f"{head}Accept: image/png\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
half = [broken_off(request[: len(request) // 2]) for _ in range(300)]
for _ in range(300):
    broken_off(request).close()
for _ in range(200):
    broken_off(os.urandom(200)).close()
print("300 half uploads, 300 dropped connections, 200 of random bytes:", memory())
print("100 restorations beside the half uploads:", hundred_at_once(), "|", memory())
for connection in half:
    connection.close()
answers = collections.Counter(post("/api/restore", form(bytes(30 << 20))) for _ in range(30))
print("30 uploads of 30 MiB:", dict(answers), "|", memory())
print("100 restorations again:", hundred_at_once(), "|", memory())
