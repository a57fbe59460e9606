"""All settings of the server, as one frozen object.

Each is read from the environment as `BNRECAL_<NAME>` or from a file as `<name>` by
`service.settings_loading`. docs/service.md lists them; a test compares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1 << 20
GIB = 1 << 30


class Settings(BaseSettings):
    """Settings of one server process; units are part of the names."""

    model_config = SettingsConfigDict(env_prefix="BNRECAL_", frozen=True, extra="ignore")

    host: str = Field(
        default="127.0.0.1",
        description="Address to bind. Any other than a loopback address requires tokens.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to bind; 0 picks a free one.")
    data_dir: Path = Field(
        default=Path("bnrecal-data"),
        description="Folder of the ledger and the blobs; created when missing.",
    )
    ledger: str = Field(
        default="",
        description="URL of the PostgreSQL database of the ledger, `postgresql://…`; it may name "
        "several hosts. Empty: SQLite in the data folder.",
        repr=False,
        pattern=r"^($|postgres(ql)?://)",
    )
    blobs: str = Field(
        default="",
        description="Object storage for models, batches and results: `s3://bucket/prefix`, "
        "`gs://bucket/prefix` or `az://account/container/prefix`. Requires the extra `objects`. "
        "Empty: the data folder.",
    )
    result_url_seconds: float = Field(
        default=0.0,
        ge=0,
        le=7 * 86400.0,
        description="Downloads of models and statistics are redirected to a signed URL of the "
        "object storage that is valid for this long. 0: the server sends all results.",
    )
    import_prefixes: str = Field(
        default="",
        description="URLs below which objects may be imported as batches, separated by commas: "
        "`s3://bucket/prefix`. Anyone who may send batches may import them. Requires the extra "
        "`objects`. Empty: no imports.",
    )
    tokens: str = Field(
        default="",
        description="SHA-256 hashes (hex) of accepted tokens, separated by commas. "
        "Never the tokens themselves.",
        repr=False,
    )
    tokens_file: Path | None = Field(
        default=None,
        description="File with one SHA-256 hash (hex) of a token per line; # starts a comment.",
    )
    token_refresh_seconds: float = Field(
        default=1.0,
        ge=0,
        description="Time until a running server notices a token that was created or revoked.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Minimum level of log messages."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        default="auto",
        description="`json`: one object per line; `text`: for people, without successful reads; "
        "`auto`: text on a terminal, else JSON.",
    )

    model_limit_bytes: int = Field(
        default=2 * GIB, gt=0, description="Maximum size of a model file."
    )
    pt2: bool = Field(
        default=False,
        description="Accept `.pt2` files. They are programs, not data: a worker converts them to "
        "ONNX if its sandbox is in force; otherwise they are rejected. Requires torch.",
    )
    batch_limit_bytes: int = Field(
        default=1 * GIB, gt=0, description="Maximum size of a batch body."
    )
    packed_batch_bytes: int = Field(
        default=128 << 10,
        ge=0,
        description="Batches of arrays up to this size share files, which saves a file per batch.",
    )
    infer_json_limit_bytes: int = Field(
        default=16 * MIB,
        gt=0,
        description="Maximum size of the JSON part of an inference request, without binary data.",
    )
    recalibration_limit_bytes: int = Field(
        default=64 * GIB, gt=0, description="Maximum bytes of batches in one recalibration."
    )
    recalibration_limit_batches: int = Field(
        default=10_000_000, gt=0, description="Maximum number of batches in one recalibration."
    )
    total_limit_bytes: int = Field(
        default=256 * GIB,
        gt=0,
        description="Maximum bytes of models and batches stored at one time.",
    )
    disk_reserve_bytes: int = Field(
        default=256 * MIB,
        ge=0,
        description="Uploads are rejected with 507 while less than this is free on the data "
        "folder's file system; it is reserved for the ledger, runs and results.",
    )
    body_idle_seconds: float = Field(
        default=30.0,
        gt=0,
        description="A body that sends nothing for this long is rejected with 408, and so is a "
        "request header that takes this long.",
    )
    body_min_bytes_per_second: int = Field(
        default=16 * 1024,
        gt=0,
        description="A body that is slower on average, after the first `body_idle_seconds`, is "
        "rejected with 408.",
    )

    max_connections: int = Field(
        default=1000,
        ge=1,
        description="Maximum number of connections. Beyond it, idle connections are closed, the "
        "oldest first; if all have a request in progress, further requests are rejected with 503, "
        "except health checks.",
    )

    max_concurrent_runs: int = Field(
        default=1,
        ge=0,
        description="Maximum number of recalibrations that this process runs at the same time. "
        "0: none; runners or other servers run them.",
    )
    runs_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="Maximum memory of all admitted runs together; a sealed recalibration waits "
        "until its share is free. 0: three quarters of the memory of the machine or control group.",
    )
    runner_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="Maximum memory of the runs of this process together; where it has no room, "
        "another process starts the next run. 0: only `runs_memory_bytes` applies.",
    )
    worker_timeout_seconds: float = Field(
        default=6 * 3600.0,
        gt=0,
        description="Maximum duration of one run; then its worker is killed.",
    )
    shards: str = Field(
        default="1",
        pattern=r"^(auto|[1-9][0-9]{0,2})$",
        description="Number of shards in which the stream of one run is measured, each by a worker "
        "with the memory of a worker; the results have the same bytes. `auto`: as many as keep the "
        "tensors that wait at the frontier in memory, up to the memory of all runs. 1: one worker "
        "does the whole run.",
    )
    runner: str = Field(
        default="",
        pattern=r"^($|ray$|ray://.+)",
        description="Where the shards of runs are measured. `ray`: on the Ray cluster of this "
        "machine's Ray node; `ray://host:port`: through a Ray Client server. Requires the extra "
        "`ray`, and object storage or a data folder that all nodes share. Empty: by workers of "
        "this machine.",
    )
    inspection_timeout_seconds: float = Field(
        default=120.0, gt=0, description="Maximum time for a worker to read an uploaded model."
    )
    validation_workers: int = Field(
        default=2,
        ge=1,
        description="Number of workers that read archives and images before these are "
        "acknowledged.",
    )
    validation_timeout_seconds: float = Field(
        default=120.0, gt=0, description="Maximum time for a worker to read one batch."
    )
    worker_memory_bytes: int = Field(
        default=8 * GIB,
        gt=0,
        description="Maximum private memory of one worker process (RLIMIT_DATA); a recalibration "
        "may request less.",
    )
    frontier_memory_bytes: int = Field(
        default=2 * GIB,
        gt=0,
        description="Bytes of intermediate tensors that a run keeps in memory before it spills to "
        "disk.",
    )
    frontier_spill_bytes: int = Field(
        default=64 * GIB,
        ge=0,
        description="Maximum bytes of intermediate tensors that a run spills to disk.",
    )
    worker_threads: int = Field(
        default=0,
        ge=0,
        description="Threads of one worker's numerical libraries; 0 for their default.",
    )
    max_worker_crashes: int = Field(
        default=3, ge=1, description="A recalibration fails after this many crashes of its worker."
    )
    max_attempts: int = Field(
        default=20,
        ge=1,
        description="A recalibration fails after this many attempts, including those that a "
        "restart of the server interrupted.",
    )
    lease_seconds: float = Field(
        default=20.0,
        gt=0,
        description="Time after which another process takes over a run whose process no longer "
        "responds. A process extends its leases every two seconds.",
    )
    poll_seconds: float = Field(
        default=1.0,
        gt=0,
        description="Time until a process notices what other processes that share its ledger have "
        "changed.",
    )
    run_retry_seconds: float = Field(
        default=5.0,
        ge=0,
        description="Pause before a run that was deferred for lack of resources (full disk, no "
        "process) is queued again.",
    )
    progress_interval_seconds: float = Field(
        default=0.25,
        ge=0,
        description="Minimum time between two progress events of one phase of a run.",
    )

    ended_retention_seconds: float = Field(
        default=30 * 86400.0,
        gt=0,
        description="Time after which an ended recalibration is deleted.",
    )
    open_retention_seconds: float = Field(
        default=7 * 86400.0,
        gt=0,
        description="Time without a new batch after which an open recalibration is deleted.",
    )
    model_retention_seconds: float = Field(
        default=30 * 86400.0,
        gt=0,
        description="Time after its last upload when a model is deleted, unless its owner has a "
        "recalibration of it.",
    )
    cleanup_interval_seconds: float = Field(
        default=300.0,
        gt=0,
        description="Time between two cleanups of expired and orphaned data.",
    )
    deletion_rows: int = Field(
        default=5000,
        gt=0,
        description="Maximum rows that one transaction deletes; all other writes wait meanwhile, a "
        "few tens of milliseconds.",
    )
    shutdown_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Time that a shutdown waits for request bodies in progress; then they are "
        "rejected.",
    )
