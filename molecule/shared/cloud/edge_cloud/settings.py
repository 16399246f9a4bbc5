"""The cloud machine's settings, one JSON file written by the playbook."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

CONFIG = Path("/etc/edge-cloud/config.json")


@dataclass(frozen=True)
class Settings:
    """Names, ports and paths; all keys are required, unknown keys are an error."""

    region: str
    bucket: str
    role_alias: str
    provider_host: str
    provider_port: int
    s3_host: str
    s3_port: int
    upstream_port: int
    # Of moto's server; empty where only the ledger is asked.
    control_url: str
    tls: str
    ledger: str
    logs: str

    @property
    def s3_url(self) -> str:
        """The gate's address, as a client writes it."""
        return f"https://{self.s3_host}:{self.s3_port}"

    @property
    def server_ca(self) -> Path:
        """The CA that vouches for both endpoints."""
        return Path(self.tls, "server-ca.crt")

    def log(self, name: str) -> Path:
        """Return the path of the request log called `name` (provider or gate)."""
        return Path(self.logs, f"{name}.jsonl")


def load(path: Path = CONFIG) -> Settings:
    """Read the settings."""
    return Settings(**json.loads(path.read_text()))


def timestamp(at: float) -> str:
    """Format a time as ISO 8601 in UTC with milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}Z"
