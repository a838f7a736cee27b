"""A stand-in for vLLM's server (0.33.0): its routes, field names and refusals, around a small model.

`make vllm` asks a real one (0.32.0) the same; what it says where it refuses was taken from there.

Fields and defaults are those of vllm.entrypoints.openai.completion.protocol.CompletionRequest and
vllm.entrypoints.serve.lora.protocol; errors have the shape of its ErrorResponse.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

DEFAULTS: dict[str, Any] = {
    "model": None,
    "prompt": None,
    "seed": None,
    "max_tokens": 16,
    "min_tokens": 0,
    "temperature": 0.3,  # what the model's generation_config.json might say: a client has to name its own
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.5,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": False,
    "stop_token_ids": [],
    "logprobs": None,
    "return_token_ids": None,
}
DEVELOPMENT = ("/sleep?level=1", "/wake_up", "/is_sleeping", "/server_info?config_format=json")
PLAIN = {"min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}


class Refusal(Exception):
    """What the server answers with another status than 200."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Fake:
    """The server's state: the adapters that it knows, and what it was asked."""

    def __init__(self, base: Path) -> None:
        self.base = base
        # Here and not where it is asked, in threads: two at a time leave transformers without tied weights.
        self.model = AutoModelForCausalLM.from_pretrained(base).eval()
        self.adapters: dict[str, PeftModel] = {}
        self.asked: list[dict[str, Any]] = []
        self.loaded: list[str] = []
        self.first: PeftModel | None = None
        self.connections = 0
        self.stale = False  # answer with the first adapter for ever
        self.max_lora_rank = 16
        self.takes_adapters = True  # --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING
        self.can_sleep: bool | None = None  # --enable-sleep-mode; None: and no VLLM_SERVER_DEV_MODE
        self.asleep = False
        self.told: list[str] = []  # to sleep and to wake up
        self.left: int | None = None  # requests that it answers before it dies
        self.gateway: list[str] = []  # paths that a gateway before it answers with 502, each once
        self.cut: list[str] = []  # paths whose answers are cut in half, each once
        self.hangs = threading.Event()  # its engine does, while HTTP answers
        self.ended = threading.Event()
        self.lock = threading.Lock()

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        if self.hangs.is_set() and path == "/v1/completions":
            self.ended.wait()
        with self.lock:
            if path in self.gateway:
                self.gateway.remove(path)
                raise Refusal(502, "Bad Gateway")
            if self.left == 0:
                raise Refusal(503 if path == "/health" else 500, "EngineCore encountered an issue.")
            if path == "/health":
                return ""
            if path == "/v1/models":
                return {"object": "list", "data": self._models()}
            if self.can_sleep is not None and path in DEVELOPMENT:
                return self._develop(path)
            if path == "/v1/load_lora_adapter" and self.takes_adapters:
                return self._load(**body)
            if path == "/v1/unload_lora_adapter" and self.takes_adapters:
                if self.adapters.pop(body["lora_name"], None) is None:
                    raise Refusal(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
                return "Success"
            if path == "/v1/completions":
                return self._complete(body)
        raise Refusal(404, "Not Found")

    def start_anew(self, base: Path | None = None) -> None:
        """It is there again, and knows no adapter."""
        self.adapters.clear()
        self.left, self.asleep = None, False
        if base is not None:
            self.base, self.model = base, AutoModelForCausalLM.from_pretrained(base).eval()

    def _develop(self, path: str) -> dict[str, Any]:
        if path == "/server_info?config_format=json":
            return {"vllm_config": {"model_config": {"enable_sleep_mode": self.can_sleep}}}
        if path != "/is_sleeping":
            self.asleep = path.startswith("/sleep")
            self.told.append("sleep" if self.asleep else "wake")
        return {"is_sleeping": self.asleep}

    def _load(self, lora_name: str, lora_path: str) -> str:
        if not (lora_name and lora_path):
            raise Refusal(400, "Both 'lora_name' and 'lora_path' must be provided.")
        if lora_name in self.adapters:
            raise Refusal(400, f"The lora adapter '{lora_name}' has already been loaded.")
        if not Path(lora_path).is_absolute():
            raise Refusal(404, f"No adapter found for '{lora_path}'")
        if not Path(lora_path).is_dir():
            raise Refusal(404, f"Loading lora {lora_name} failed: No adapter found for {lora_path}")
        rank = json.loads((Path(lora_path) / "adapter_config.json").read_text())["r"]
        if rank > self.max_lora_rank:
            why = f"LoRA rank {rank} is greater than max_lora_rank {self.max_lora_rank}."
            raise Refusal(500, f"Call to add_lora method failed: Worker failed with error '{why}'")
        self.adapters[lora_name] = PeftModel.from_pretrained(deepcopy(self.model), lora_path).eval()
        self.first = self.first or self.adapters[lora_name]
        self.loaded.append(lora_name)
        return "Success"

    def _models(self) -> list[dict[str, Any]]:
        adapters = [{"id": name, "object": "model", "parent": str(self.base)} for name in self.adapters]
        return [{"id": str(self.base), "object": "model", "root": str(self.base), "parent": None}, *adapters]

    @torch.no_grad()
    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        if unknown := set(body) - set(DEFAULTS):
            raise Refusal(400, f"unknown fields {unknown}")
        if self.asleep:
            raise Refusal(400, "a real server would never answer this: it sleeps")
        if self.left is not None:
            self.left -= 1
        asked = {**DEFAULTS, **body}
        self.asked.append(asked)
        plain = asked["model"] == str(self.base)
        if not plain and asked["model"] not in self.adapters:
            raise Refusal(404, f"The model `{asked['model']}` does not exist.")
        if wrong := {name for name, value in PLAIN.items() if asked[name] != value}:
            raise Refusal(400, f"this stand-in cannot sample with {wrong}")
        model: Any = self.first if self.stale else self.adapters.get(asked["model"])
        model = self.model if plain else model
        draws = torch.Generator().manual_seed(asked["seed"])
        ids, logprobs = [], []
        while len(ids) < asked["max_tokens"] and ids[-1:] != asked["stop_token_ids"]:
            logits = model(input_ids=torch.tensor([asked["prompt"] + ids])).logits[0, -1]
            logits = logits / asked["temperature"]
            if len(ids) < asked["min_tokens"]:
                logits[asked["stop_token_ids"]] = float("-inf")
            distribution = _narrowed(logits, asked["top_k"], asked["top_p"]).log_softmax(-1)
            ids.append(int(distribution.exp().multinomial(1, generator=draws)))
            logprobs.append(float(distribution[ids[-1]]))
        ended = ids[-1:] == asked["stop_token_ids"]
        choice = {
            "index": 0,
            "text": "",
            "logprobs": {"token_logprobs": logprobs} if asked["logprobs"] is not None else None,
            "finish_reason": "stop" if ended else "length",
            "token_ids": ids if asked["return_token_ids"] else None,
        }
        return {"object": "text_completion", "model": asked["model"], "choices": [choice]}


def _narrowed(logits: torch.Tensor, k: int, p: float) -> torch.Tensor:
    """As vllm.v1.sample.ops.topk_topp_sampler does: in ascending order, first top-k, then top-p."""
    logits, places = logits.sort()
    if k > 0:
        logits[logits < logits[-min(k, len(logits))]] = float("-inf")
    out = logits.softmax(-1).cumsum(-1) <= 1 - p
    out[-1] = False
    return torch.empty_like(logits).scatter(0, places, logits.masked_fill(out, float("-inf")))


@contextmanager
def serving(fake: Fake) -> Iterator[str]:
    """The address at which it answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # so that a connection stays open after an answer
        timeout = 5.0  # VLLM_HTTP_TIMEOUT_KEEP_ALIVE
        disable_nagle_algorithm = True

        def setup(self) -> None:
            fake.connections += 1
            super().setup()

        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}"))

        def _answer(self, body: dict[str, Any]) -> None:
            try:
                code, said = 200, fake.answer(self.path, body)
            except Refusal as refusal:
                code = refusal.code
                said = {"error": {"message": str(refusal), "type": "BadRequestError", "code": code}}
            text = json.dumps(said).encode()
            if self.path in fake.cut:
                fake.cut.remove(self.path)
                text = text[: len(text) // 2]
            self._send(code, text)

        def _send(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):  # who asked has gone
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        fake.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
