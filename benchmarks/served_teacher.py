"""A served teacher at full size: what a kill loses, the rate among faults, and memory as problems grow.

    python -m benchmarks.served_teacher loss|rate|memory

The server is a process of its own on loopback that counts what it answered. `loss`: 2,000 keys against 10 % 429, 5 %
500, 1 % that hang and 5 % odd replies, killed three times; then against a server that answers at once, without faults.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ODD = [
    (b"<html>502 upstream</html>", b"text/html"),
    *((body, b"application/json") for body in (b'{"id": "c", "choices": [{"ind', b"{}", b'{"error": {"code": 500}}')),
    *((b'{"choices": %s}' % choices, b"application/json") for choices in (b"null", b"[]", b'[{"message": null}]')),
    (b'{"choices": [{"message": {"content": 42}}]}', b"application/json"),
]
HANGS_SECONDS, LATENCY_SECONDS = 5.0, 0.3


async def serve(faulty: bool, latency: float) -> None:
    """Prints its port, then answers until it is killed. `GET /count`: good replies and all requests so far."""
    counts = {"good": 0, "all": 0}
    draws, odd = random.Random(0), itertools.cycle(ODD)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), b":0"
                )
                body = await reader.readexactly(int(length.partition(b":")[2]))
                status, answer, kind = await reply(head, body)
                writer.write(
                    b"HTTP/1.1 %d x\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s"
                    % (status, kind, len(answer), answer)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def reply(head: bytes, body: bytes) -> tuple[int, bytes, bytes]:
        json_kind = b"application/json"
        if head.startswith(b"GET"):
            return 200, json.dumps(counts | {"object": "list", "data": []}).encode(), json_kind
        counts["all"] += 1
        await asyncio.sleep(latency)
        chance = draws.random() if faulty else 1.0
        if chance < 0.15:
            return (429 if chance < 0.1 else 500), b'{"error": {"message": "injected"}}', json_kind
        if chance < 0.16:
            await asyncio.sleep(4 * HANGS_SECONDS)
        elif chance < 0.21:
            return 200, *next(odd)
        counts["good"] += 1
        message = {"role": "assistant", "content": "<think>" + "because " * 100 + "</think> \\boxed{1}"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 300, "completion_tokens": 120}
        return 200, json.dumps({"id": "c", "choices": [choice], "usage": usage}).encode(), json_kind

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=2**20, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def problems(folder: Path, count: int, image_bytes: int) -> Path:
    """So many problems, each with a JPEG of that size."""
    from drift.data import tables

    def rows():
        image = jpeg(image_bytes)
        for number in range(count):
            content = image + number.to_bytes(8)  # what follows a JPEG's end is not shown
            yield {
                "id": f"{number:016x}", "source": "s", "problem": f"compute {number} + 1", "gold": "1", "choices": None,
                "answer_kind": "number", "images": [{"bytes": content, "path": None}], "image_sha256": ["0"],
                "width": 300, "height": 300,
            }  # fmt: skip

    folder.mkdir(parents=True)
    tables.write_rows(folder / tables.PROBLEMS_FILE, rows(), tables.PROBLEMS)
    return folder


def jpeg(size: int) -> bytes:
    import io

    import numpy as np
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8))
    image.save(buffer := io.BytesIO(), "JPEG", quality=90)
    return buffer.getvalue()[:-2] + b"\xff\xd9" + b"\0" * max(0, size - buffer.tell())


def client(folder: str, url: str, concurrency: str, samples: str) -> None:
    """`drift generate` in this process; prints seconds and the most memory it held, in MB."""
    from drift.config.data import EndpointTeacher, GenerateConfig
    from drift.data.chains.distillation import generate

    teacher = EndpointTeacher(
        kind="endpoint", base_url=url, model="m", concurrency=int(concurrency), timeout_seconds=HANGS_SECONDS
    )
    config = GenerateConfig(teacher=teacher, samples=int(samples))
    started = time.monotonic()
    report = generate(config, Path(folder) / "problems", Path(folder) / "out")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.monotonic() - started, "mb": most, "failed": report.failed}))


class Server:
    def __init__(self, *, faulty: bool, latency: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve", str(int(faulty)), str(latency)], stdout=subprocess.PIPE, text=True
        )
        self.host = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def counts(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.host}/count") as answer:
            return json.load(answer)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def begin(folder: Path, server: Server, concurrency: int = 64, samples: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "client", str(folder), f"{server.host}/v1", str(concurrency), str(samples)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> dict[str, float]:
    out, err = process.communicate()
    assert process.returncode == 0 and "Traceback" not in err, err
    return json.loads(out.splitlines()[-1])


def lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("part-*.jsonl"))


def loss() -> None:
    """Replies the server gave and the disk has not, at each of three kills."""
    for faulty, latency in ((True, LATENCY_SECONDS), (False, 0.0)):
        with tempfile.TemporaryDirectory() as name:
            folder, server = Path(name), Server(faulty=faulty, latency=latency)
            problems(folder / "problems", 1000, 150_000)
            partial, lost, kept = folder / "out.partial", [], 0
            for _ in range(3):
                process = begin(folder, server, samples=2)
                before = server.counts()["good"]
                while lines(partial) < kept + 300:
                    time.sleep(0.01)
                os.kill(process.pid, signal.SIGKILL)
                process.communicate()
                lost.append(server.counts()["good"] - before - (lines(partial) - kept))
                kept = lines(partial)
            ended = finished(begin(folder, server, samples=2))
            rows = [json.loads(line) for path in (folder / "out").glob("part-*") for line in path.open()]
            keys = {(row["id"], row["sample"]) for row in rows}
            server.close()
        print(f"faulty={faulty}: lost per kill {lost}; {len(rows)} rows, {len(keys)} keys, failed {ended['failed']}")


def rate() -> None:
    """Attempts a second among faults over those without, between the 200th and the 1,800th row of 2,000."""
    rates = {}
    for faulty in (False, True):
        with tempfile.TemporaryDirectory() as name:
            folder, server = Path(name), Server(faulty=faulty, latency=LATENCY_SECONDS)
            problems(folder / "problems", 1000, 1_000)
            process, partial = begin(folder, server, samples=2), folder / "out.partial"
            began = _when(partial, 200), server.counts()["all"]
            ended = _when(partial, 1800), server.counts()["all"]
            rates[faulty] = (ended[1] - began[1]) / (ended[0] - began[0])
            finished(process)
            server.close()
    whole, faulty = rates[False], rates[True]
    print(f"attempts a second: {whole:.1f} without faults, {faulty:.1f} with: {faulty / whole:.2f}")


def _when(folder: Path, count: int) -> float:
    """The time when the folder has so many lines."""
    while lines(folder) < count:
        time.sleep(0.02)
    return time.monotonic()


def memory() -> None:
    """The most resident memory at 2,000 and 20,000 problems with images of 150 KB."""
    most = {}
    for count in (2_000, 20_000):
        with tempfile.TemporaryDirectory() as name:
            folder, server = Path(name), Server(faulty=False, latency=0.0)
            problems(folder / "problems", count, 150_000)
            most[count] = finished(begin(folder, server))
            server.close()
        print(
            f"{count} problems: {most[count]['mb']:.0f} MB, {count / most[count]['seconds']:.0f} replies/s", flush=True
        )
    print(f"ratio {most[20_000]['mb'] / most[2_000]['mb']:.2f}")


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "serve":
        asyncio.run(serve(bool(int(arguments[0])), float(arguments[1])))
    else:
        {"client": client, "loss": loss, "rate": rate, "memory": memory}[what](*arguments)
