"""`vllm` for tests: takes `serve MODEL`, and behaves as vLLM 0.20.2 does to whoever starts, asks and ends it.

What it knows of vLLM was read in its source; the comments name file and line. `VLLM_STANDIN` is a JSON object:

folder          where it writes what it was started with: `PID.json`
never_ready     the model never finishes loading
fails           it ends while loading, with these lines on its log
dies_after      after so many answers its engine dies: 500 and no health, and a little later its own end
hangs           it writes `asked` there at the first question, and never answers it
killed_after    after so many answers it is killed, as the kernel does where memory is short
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.loopback import Answering, Loopback

LINE = "(EngineCore pid={pid}) {level} 11-27 06:04:05 [core.py:1100] {text}"  # vllm/logger.py:22, system_utils.py:238


def parser() -> argparse.ArgumentParser:
    """The options that a test may give, each as vLLM has it; any other is an error, as there."""
    known = argparse.ArgumentParser(prog="vllm serve", allow_abbrev=False)
    known.add_argument("model_tag", nargs="?")  # vllm/entrypoints/openai/cli_args.py:325
    known.add_argument("--host")  # cli_args.py:216
    known.add_argument("--port", type=int, default=8000)  # cli_args.py:218
    known.add_argument("--disable-uvicorn-access-log", action="store_true")  # cli_args.py:226
    known.add_argument("--trust-remote-code", action="store_true")  # vllm/engine/arg_utils.py:751
    known.add_argument(
        "--dtype", choices=["auto", "half", "float16", "bfloat16", "float", "float32"]
    )  # arg_utils.py:753, vllm/config/model.py:87
    known.add_argument("--max-model-len", type=int)  # arg_utils.py:767
    known.add_argument("--enforce-eager", action="store_true")  # arg_utils.py:773
    known.add_argument("--served-model-name", nargs="+")  # arg_utils.py:793
    known.add_argument("--generation-config", default="auto")  # arg_utils.py:809, config/model.py:273
    known.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)  # arg_utils.py:925
    known.add_argument("--data-parallel-size", "-dp", type=int, default=1)  # arg_utils.py:950
    known.add_argument("--gpu-memory-utilization", type=float, default=0.92)  # arg_utils.py:1063, config/cache.py:66
    known.add_argument("--limit-mm-per-prompt", type=json.loads, default={})  # arg_utils.py:1151
    known.add_argument("--max-num-seqs", type=int)  # arg_utils.py:1291
    return known


class Standin:
    """One start of it."""

    def __init__(self, words: list[str]) -> None:
        if words[:1] != ["serve"]:
            raise SystemExit(f"vllm: error: argument subparser: invalid choice: {words[:1]}")
        self.args = parser().parse_args(words[1:])
        self.behaves = json.loads(os.environ.get("VLLM_STANDIN", "{}"))
        self.key = os.environ.get("VLLM_API_KEY")  # vllm/envs.py:663, entrypoints/openai/api_server.py:272
        self.names = self.args.served_model_name or [self.args.model_tag]  # api_server.py:334
        self.answers, self.dead = 0, False
        self.lock = threading.Lock()
        self.engine = subprocess.Popen(
            [sys.executable, "-Ic", "import time; time.sleep(600)"]
        )  # EngineCore is a process

    def run(self) -> None:
        """Nobody listens before the model is loaded: the port is bound early, but served late (api_server.py:556)."""
        self.write()
        self.say("INFO", f"Loading weights of {self.args.model_tag}")
        signal.signal(signal.SIGTERM, lambda number, frame: self.end())  # api_server.py:566, launcher.py:104
        if not (Path(self.args.model_tag) / "config.json").is_file():
            self.fail(f"OSError: {self.args.model_tag} does not appear to have a file named config.json.")
        if fails := self.behaves.get("fails"):
            self.fail(*fails)
        if self.behaves.get("never_ready"):
            threading.Event().wait()
        with Loopback(handler(self), self.args.port):
            self.say("INFO", "Application startup complete.")
            while not self.dead:
                time.sleep(0.02)
            time.sleep(0.5)  # launcher.py:150: the watchdog looks every 5 s
            self.end(1)

    def write(self) -> None:
        told = {name: os.environ.get(name) for name in ("VLLM_API_KEY", "VLLM_NO_USAGE_STATS", "PYTHONPATH")}
        started = {"pid": os.getpid(), "engine": self.engine.pid, "argv": sys.argv, "environment": told}
        place = Path(self.behaves["folder"]) / f"{os.getpid()}.json"
        place.with_suffix(".part").write_text(json.dumps(started))
        place.with_suffix(".part").rename(place)

    def say(self, level: str, text: str) -> None:
        print(LINE.format(pid=self.engine.pid, level=level, text=text), flush=True)

    def fail(self, *lines: str) -> None:
        """A traceback of the engine, then one of the server that says no cause (vllm/v1/engine/utils.py:1178)."""
        self.say("ERROR", "Traceback (most recent call last):")
        for line in lines:
            self.say("ERROR", line)
        print("Traceback (most recent call last):", flush=True)
        print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
        self.end(1)

    def end(self, code: int = 0) -> None:
        self.engine.kill()
        sys.stdout.flush()
        os._exit(code)

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["model"] not in self.names:  # vllm/entrypoints/openai/engine/serving.py:428
            message = f"The model `{body['model']}` does not exist."
            return 404, {"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}}
        images = sum(part["type"] == "image_url" for part in body["messages"][-1]["content"])
        limit = self.args.limit_mm_per_prompt.get("image", 999)  # vllm/config/multimodal.py:82
        if images > limit:  # vllm/multimodal/processing/context.py:444
            message = f"At most {limit} image(s) may be provided in one prompt."
            return 400, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}
        if self.behaves.get("hangs"):
            (Path(self.behaves["folder"]) / "asked").touch()
            threading.Event().wait()
        with self.lock:
            self.count()
            if self.dead:  # vllm/v1/engine/exceptions.py:9
                return 500, {"error": {"message": "EngineCore encountered an issue. See stack trace (above)"}}
            self.answers += 1
        return 200, completion(body)

    def count(self) -> None:
        """Its end, where as many answers as the test wants have been given."""
        if self.answers == self.behaves.get("killed_after"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.answers == self.behaves.get("dies_after") and not self.dead:
            self.say("ERROR", "torch.AcceleratorError: CUDA error: an illegal memory access was encountered")
            self.dead = True


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """The last number of the question, as a chain of thought and an answer."""
    number = "".join(filter(str.isdigit, body["messages"][-1]["content"][-1]["text"].partition("\n")[0])) or "0"
    message = {"role": "assistant", "content": f"<think> {body.get('seed')} </think> \\boxed{{{int(number) % 100}}}"}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": body["model"]}
    return {**head, "choices": [choice], "usage": usage}


def handler(standin: Standin) -> type[BaseHTTPRequestHandler]:
    class Handler(Answering, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/health":  # asks for no key; entrypoints/serve/instrumentator/health.py:22
                self.send(503 if standin.dead else 200, b"", "text/plain")
            elif self._is_allowed():
                names = [{"id": name, "object": "model", "root": standin.args.model_tag} for name in standin.names]
                self.answer(200, {"object": "list", "data": names})  # entrypoints/openai/models/serving.py:60

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self._is_allowed():
                self.answer(*standin.complete(body))

        def _is_allowed(self) -> bool:
            """With a key, all below /v1 wants it; entrypoints/openai/server_utils.py:83."""
            allowed = standin.key is None or self.headers.get("authorization") == f"Bearer {standin.key}"
            if not allowed:
                self.answer(401, {"error": "Unauthorized"})
            return allowed

    return Handler


def install(folder: Path) -> Path:
    """An executable of it in ``folder``."""
    executable = folder / "vllm"
    executable.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} "$@"\n')
    executable.chmod(0o755)
    return executable


if __name__ == "__main__":
    Standin(sys.argv[1:]).run()
