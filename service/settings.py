"""Every setting of the server, in one frozen object that is built once and passed in.

Each is read from the environment as `BNRECAL_<NAME>` or from a file as `<name>`, by
`service.settings_loading`; docs/service.md lists them and a test holds that list complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1 << 20
GIB = 1 << 30


class Settings(BaseSettings):
    """Settings of one server process; units stand in the names."""

    model_config = SettingsConfigDict(env_prefix="BNRECAL_", frozen=True, extra="ignore")

    host: str = Field(
        default="127.0.0.1", description="Address to bind. Any but a loopback one needs tokens."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to bind; 0 picks a free one.")
    data_dir: Path = Field(
        default=Path("bnrecal-data"),
        description="Folder of the ledger and the blobs; made when missing.",
    )
    tokens: str = Field(
        default="",
        description="SHA-256 hashes (hex) of the tokens that are let in, separated by commas. "
        "Never the tokens themselves.",
        repr=False,
    )
    tokens_file: Path | None = Field(
        default=None,
        description="File with one SHA-256 hash (hex) of a token per line; # begins a comment.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level that is logged."
    )

    model_limit_bytes: int = Field(default=2 * GIB, gt=0, description="Largest model file.")
    pt2: bool = Field(
        default=False,
        description="Take `.pt2` files too. They are programs, not data: they are turned into ONNX "
        "by a worker whose sandbox is in force, and refused where none is. Needs torch.",
    )
    batch_limit_bytes: int = Field(default=1 * GIB, gt=0, description="Largest batch body.")
    infer_json_limit_bytes: int = Field(
        default=16 * MIB,
        gt=0,
        description="Largest JSON part of an inference request; binary tensor data is not in it.",
    )
    recalibration_limit_bytes: int = Field(
        default=64 * GIB, gt=0, description="Most bytes of batches in one recalibration."
    )
    recalibration_limit_batches: int = Field(
        default=10_000_000, gt=0, description="Most batches in one recalibration."
    )
    total_limit_bytes: int = Field(
        default=256 * GIB, gt=0, description="Most bytes of models and batches stored at one time."
    )
    disk_reserve_bytes: int = Field(
        default=256 * MIB,
        ge=0,
        description="Uploads are refused with 507 while less of the data folder's file system is "
        "free: the ledger, runs and results need it.",
    )
    body_idle_seconds: float = Field(
        default=30.0,
        gt=0,
        description="A body that sends nothing for so long is refused with 408, and so is a "
        "request's head that takes so long.",
    )
    body_min_bytes_per_second: int = Field(
        default=16 * 1024,
        gt=0,
        description="A body that is slower on average, after the first idle time, is refused: 408.",
    )

    connections: int = Field(
        default=1000,
        ge=1,
        description="Most connections at one time. Beyond it those that wait for a request are "
        "closed, the oldest first; where each has a request under way, further ones are refused "
        "with 503, but for the probes'.",
    )

    concurrency: int = Field(default=1, ge=1, description="Recalibrations that run at one time.")
    runs_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="Most memory that all admitted runs may take together; a sealed recalibration "
        "waits for its share. 0: three quarters of the memory of the machine or its control group.",
    )
    worker_deadline_seconds: float = Field(
        default=6 * 3600.0,
        gt=0,
        description="Longest run of one recalibration; then its worker is killed.",
    )
    describe_deadline_seconds: float = Field(
        default=120.0, gt=0, description="Longest time a worker may take to read an uploaded model."
    )
    checkers: int = Field(
        default=2,
        ge=1,
        description="Workers that read archives and images before these are acknowledged.",
    )
    check_deadline_seconds: float = Field(
        default=120.0, gt=0, description="Longest time a worker may take to read one batch."
    )
    worker_memory_bytes: int = Field(
        default=8 * GIB,
        gt=0,
        description="Most private memory of one worker process (RLIMIT_DATA); a recalibration may "
        "ask for less.",
    )
    frontier_memory_bytes: int = Field(
        default=2 * GIB,
        gt=0,
        description="Intermediate tensors that a run keeps in memory before it spills to disk.",
    )
    frontier_spill_bytes: int = Field(
        default=64 * GIB,
        ge=0,
        description="Most bytes of intermediate tensors that a run spills to disk.",
    )
    worker_threads: int = Field(
        default=0,
        ge=0,
        description="Threads of one worker's numerical libraries; 0 leaves the choice to them.",
    )
    worker_deaths: int = Field(
        default=3, ge=1, description="A recalibration whose worker died so often ends `failed`."
    )
    attempts: int = Field(
        default=20,
        ge=1,
        description="A recalibration begun so often, server restarts included, ends `failed`.",
    )

    keep_ended_seconds: float = Field(
        default=30 * 86400.0, gt=0, description="An ended recalibration is deleted after so long."
    )
    keep_open_seconds: float = Field(
        default=7 * 86400.0,
        gt=0,
        description="An open recalibration that takes no batch for so long is deleted.",
    )
    keep_model_seconds: float = Field(
        default=30 * 86400.0,
        gt=0,
        description="A model that was not sent again for so long, and of which its owner keeps no "
        "recalibration, is deleted.",
    )
    sweep_seconds: float = Field(
        default=300.0,
        gt=0,
        description="Time between two sweeps for what has expired or is left over.",
    )
    shutdown_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Time that a shutdown gives to bodies under way; then they are refused.",
    )
