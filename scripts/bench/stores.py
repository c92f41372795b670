"""Shards from an S3 server and from a web server, beside the same shards on the disk.

    python -m venv venv && venv/bin/pip install "moto[server,s3]" pillow numpy
    cargo build --release -p spire-data --features object-store --example compare_shards
    venv/bin/python scripts/bench/stores.py --compare target/release/examples/compare_shards

writes tar shards, serves them by moto's S3 server and by Python's `http.server` (which gives no ranges), each behind a proxy that
makes a request and its answer take 20 ms longer, and compares a pass with one over the files, sample for sample. It ends with an error
if a sample differs. Results: docs/data.md.

With `--others` it compares wildcards and Parquet files instead, also in Azure's store: Azurite (`npm install azurite`). It needs the Python packages
azure-storage-blob and pyarrow. gcp-storage-emulator can't take Google's place: it does not list objects by the interface that object_store uses.
"""

import argparse
import asyncio
import contextlib
import http.server
import io
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import boto3
import moto
import numpy as np
from PIL import Image


def write_shards(folder, shards, samples, side):
    """Pictures with structure, so that JPEG neither shrinks them to nothing nor keeps noise."""
    draw = np.random.default_rng(1)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:06}.tar", "w") as tar:
            for number in range(samples):
                coarse = draw.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
                picture = Image.fromarray(coarse).resize((side, side), Image.BICUBIC)
                fine = draw.normal(0, 6, (side, side, 3))
                picture = Image.fromarray(np.clip(np.asarray(picture) + fine, 0, 255).astype(np.uint8))
                jpeg = io.BytesIO()
                picture.save(jpeg, "JPEG", quality=92)
                for extension, content in (("jpg", jpeg.getvalue()), ("txt", f"picture {number} of shard {shard}".encode())):
                    member = tarfile.TarInfo(f"{shard:06}{number:06}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    (folder / "sizes.json").write_text(json.dumps({f"{shard:06}.tar": samples for shard in range(shards)}))


def write_tables(folder):
    """The samples of the tar shards as Parquet files, in row groups of 100."""
    import pyarrow
    import pyarrow.parquet

    for shard in folder.glob("*.tar"):
        with tarfile.open(shard) as tar:
            contents = {member.name: tar.extractfile(member).read() for member in tar}
        pictures = sorted(name for name in contents if name.endswith(".jpg"))
        texts = [contents[name.replace(".jpg", ".txt")].decode() for name in pictures]
        table = pyarrow.table({"image": [contents[name] for name in pictures], "caption": texts})
        pyarrow.parquet.write_table(table, shard.with_suffix(".parquet"), row_group_size=100)


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


def web_server(folder):
    handler = lambda *arguments: Quiet(*arguments, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # At the end the client hangs up in the middle of shards that it fetched ahead.
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


class Proxy:
    """Passes bytes on after a delay. Bandwidth is not limited: what is under way waits beside what follows."""

    def __init__(self, port, delay):
        self.target, self.delay = port, delay
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def serve():
            server = await asyncio.start_server(self.connect, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()

        def run():
            self.loop.run_until_complete(serve())
            self.loop.run_forever()

        threading.Thread(target=run, daemon=True).start()
        ready.wait()

    async def connect(self, reader, writer):
        await asyncio.sleep(self.delay)
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self.copy(reader, other_writer), self.copy(other_reader, writer))

    async def copy(self, reader, writer):
        under_way = asyncio.Queue(maxsize=4096)

        async def send():
            while True:
                due, chunk = await under_way.get()
                await asyncio.sleep(max(0.0, due - self.loop.time()))
                if not chunk:
                    break
                writer.write(chunk)
                await writer.drain()

        sender = asyncio.ensure_future(send())
        try:
            while True:
                chunk = await reader.read(1 << 16)
                await under_way.put((self.loop.time() + self.delay / 2, chunk))
                if not chunk:
                    break
            await sender
        except (ConnectionError, asyncio.CancelledError):
            sender.cancel()
        finally:
            writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", required=True, help="the example compare_shards")
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--samples", type=int, default=1000, help="in each shard")
    parser.add_argument("--side", type=int, default=128, help="of a picture, in pixels")
    parser.add_argument("--delay", type=float, default=0.020, help="seconds for a request and its answer")
    parser.add_argument("--step", type=float, default=0.25, help="seconds that a step of 16 samples takes")
    parser.add_argument("--count", type=int, help="of samples to compare; default: a whole pass")
    parser.add_argument("--others", metavar="AZURITE", help="compare wildcards and Parquet; the program azurite-blob")
    parser.add_argument("--keep", help="a folder for the shards; those that are there are used again")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.keep or temporary)
        folder.mkdir(exist_ok=True)
        if not (folder / "sizes.json").exists():
            write_shards(folder, arguments.shards, arguments.samples, arguments.side)
        if arguments.others:
            write_tables(folder)
        shards = sorted(folder.glob("*.tar"))
        count = sum(json.loads((folder / "sizes.json").read_text()).values())
        print(f"{len(shards)} shards, {count} samples, {sum(path.stat().st_size for path in shards) / 1e6:.0f} MB", flush=True)

        numbers = [str(min(arguments.count or count, count)), str(arguments.step)]
        compare = lambda places, environment: subprocess.run(
            [arguments.compare, *numbers, *(section(place) for place in places)], env={**os.environ, **environment}, check=True
        )
        with serving_s3(folder) as port:
            s3 = Proxy(port, arguments.delay)
            environment = {
                "AWS_ENDPOINT": f"http://127.0.0.1:{s3.port}",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_REGION": "us-east-1",
            }
            print(f"{1000 * arguments.delay:.0f} ms; moto {moto.__version__}", flush=True)
            if arguments.others:
                return compare_others(folder, arguments, environment, compare)
            local = f"{folder}/{{000000..{len(shards) - 1:06}}}.tar"
            web = Proxy(web_server(folder), arguments.delay)
            places = [local, local.replace(str(folder), "s3://data/train"), local.replace(str(folder), f"http://127.0.0.1:{web.port}")]
            print("in turn: disk, S3, web (http.server)", flush=True)
            compare(places, environment)


def compare_others(folder, arguments, environment, compare):
    with serving_azure(folder, arguments.others) as port:
        azure = Proxy(port, arguments.delay)
        environment |= {
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{azure.port}",
        }
        for files in ("*.tar", "*.parquet"):
            print(f"{files} in turn: disk, S3, Azure (Azurite)", flush=True)
            compare([f"{place}/{files}" for place in (folder, "s3://data/train", "az://data/train")], environment)


def section(shards):
    kind = "parquet" if shards.endswith(".parquet") else "webdataset"
    source = {"kind": kind, "shards": shards, "shuffle_buffer": 1000}
    return json.dumps({"size": 64, "workers": 2, "prefetch": 32, "source": source})


@contextlib.contextmanager
def process(*command):
    """A server on a free port, which it gets as its last argument."""
    port = random.randrange(20000, 30000)
    server = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.2)
        yield port
    finally:
        server.terminate()


@contextlib.contextmanager
def serving_s3(folder):
    with process(str(Path(sys.executable).with_name("moto_server")), "-p") as port:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="data")
        for path in folder.iterdir():
            client.upload_file(str(path), "data", f"train/{path.name}")
        yield port


@contextlib.contextmanager
def serving_azure(folder, azurite):
    from azure.storage.blob import BlobServiceClient

    with tempfile.TemporaryDirectory() as place, process(
        azurite, "--silent", "--skipApiVersionCheck", "--location", place, "--blobPort"
    ) as port:
        # The emulator's published account and key.
        key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
        endpoint = f"http://127.0.0.1:{port}/devstoreaccount1"
        client = BlobServiceClient(endpoint, credential={"account_name": "devstoreaccount1", "account_key": key})
        container = client.create_container("data")
        for path in folder.iterdir():
            container.upload_blob(f"train/{path.name}", path.read_bytes())
        yield port


if __name__ == "__main__":
    main()
