"""A real vLLM server on the CPU: started, killed, and started anew on the same port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx2
from conftest import ROOT

PROGRAM = Path(os.environ.get("ALIGN_VLLM", ROOT / ".venv-vllm" / "bin" / "vllm"))
MAX_RANK = 8
_START = 300.0  # seconds that it may take
_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_SERVER_DEV_MODE": "1",  # /sleep and /wake_up
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


class RealServer:
    """`vllm serve` in a process group of its own, with LoRA and float32."""

    def __init__(self, base: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._base, self._log = base, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to start; `ready` waits for it."""
        flags = "--enable-lora --logprobs-mode processed_logprobs --generation-config vllm --dtype float32"
        flags += f" --max-lora-rank {MAX_RANK} --max-model-len 256 --max-num-seqs 16 --enforce-eager"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    PROGRAM,
                    "serve",
                    self._base,
                    *flags.split(),
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(self.port),
                ],
                env=environment | _ENVIRONMENT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ready(self) -> None:
        """Wait until it answers."""
        assert self._process is not None
        end = time.monotonic() + _START
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if httpx2.get(f"{self.url}/health", timeout=5).is_success:
                    return
            except httpx2.HTTPError:
                time.sleep(0.5)
        told = self._log.read_text(errors="replace")[-4000:]
        raise AssertionError(f"vLLM has not started:\n{told}")

    def kill(self) -> None:
        """End it and what it has started, at once."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
