"""Ondol as processes: one for everything, or one per service; started, killed and restarted by the examples."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import requests

SERVICES = ["feature-store", "ingest", "pipelines", "model-gateway"]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Service:
    """One `ondol` process."""

    def __init__(self, binary: Path, arguments: list[str], data: Path, environment: dict[str, str], cwd: Path):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.name = arguments[-1]
        self.command = [str(binary), *arguments, "--listen", f"127.0.0.1:{self.port}", "--data", str(data)]
        self.environment = environment
        self.cwd = cwd
        self.log = data.parent / f"{data.name}-{self.name}.log"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.cwd, env={**os.environ, **self.environment}, stdout=log, stderr=log
            )

    def wait_until_ready(self, seconds: float = 60) -> float:
        """Seconds until `/readyz` says yes."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.process.poll() is not None:
                raise SystemExit(f"`{' '.join(self.command)}` ended; its log is {self.log}:\n{self.tail()}")
            try:
                if requests.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return time.monotonic() - began
            except requests.RequestException:
                pass
            time.sleep(0.02)
        raise SystemExit(f"{self.name} was not ready after {seconds:.0f} s; its log is {self.log}:\n{self.tail()}")

    def kill(self) -> None:
        """`kill -9`."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """A graceful shutdown."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


class Platform:
    """All services, in one process (`kafka` and `redis` absent) or each in its own."""

    def __init__(self, binary: Path, data: Path, cwd: Path, kafka: str | None = None, redis: str | None = None, run: str = ""):
        self.separate = kafka is not None
        if not self.separate:
            self.services = {"all": Service(binary, ["serve", "all"], data, {}, cwd)}
            return
        # The services find each other by URL, so the ports are chosen before any of them starts.
        self.services = {
            name: Service(binary, ["serve", name], data / name, {}, cwd) for name in SERVICES
        }
        shared = {
            "ONDOL_FEATURE_STORE_URL": self.services["feature-store"].url,
            "ONDOL_INGEST_URL": self.services["ingest"].url,
            "ONDOL_FEATURE_STORE__ONLINE": redis,
            "ONDOL_FEATURE_STORE__ONLINE_PREFIX": f"flights{run}",
            "ONDOL_INGEST__STREAM__KIND": "kafka",
            "ONDOL_INGEST__STREAM__BOOTSTRAP": kafka,
            "ONDOL_INGEST__STREAM__GROUP": f"ondol-flights{run}",
        }
        for service in self.services.values():
            service.environment = shared

    def url(self, name: str) -> str:
        return self.services[name if self.separate else "all"].url

    def start(self) -> float:
        for service in self.services.values():
            service.start()
        return sum(service.wait_until_ready() for service in self.services.values())

    def stop(self) -> None:
        # Callers first, so that each drains into the next.
        for service in reversed(list(self.services.values())):
            service.stop()
