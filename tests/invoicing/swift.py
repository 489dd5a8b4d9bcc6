"""A real S3 server for tests: OpenStack Swift with its S3 interface, as processes on this machine.

It checks signatures, expiry, declared digests and `If-None-Match`, and refuses like S3 does.
"""

import getpass
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import httpx
import obstore
from obstore.store import S3Store

from infra.native.ports import accepts
from infra.native.processes import Process, Program, start, stop, wait_ready
from tests.payments.servers import free_port

#: How Swift calls an account and a user of it; together they are the access key.
KEY_ID, SECRET = "test:tester", "testing"
BUCKET = "papers"
START_SECONDS = 60

COMMON = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
fallocate_reserve = 0
workers = 0
log_address = {folder}/no-syslog
"""
STORAGE = """
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
PROXY = """
[pipeline:main]
pipeline = catch_errors cache s3api tempauth proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
"""
#: The rings say where each part of the storage listens: here on one device, one copy of all.
RINGS = """
import sys
from swift.common.ring import RingBuilder
folder, *servers = sys.argv[1:]
for server in servers:
    name, port = server.split(":")
    ring = RingBuilder(part_power=2, replicas=1, min_part_hours=1)
    ring.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1",
                  "port": int(port), "device": "disk"})
    ring.rebalance()
    ring.get_ring().save(f"{folder}/{name}.ring.gz")
"""


@dataclass(frozen=True)
class Bucket:
    """Where it is; the keys to it are `KEY_ID` and `SECRET`."""

    endpoint: str

    def link(
        self, method: Literal["GET", "PUT"], key: str, *, seconds: int = 60, secret: str = SECRET
    ) -> str:
        """A presigned link."""
        store = S3Store(
            BUCKET,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=KEY_ID,
            secret_access_key=secret,
            client_options={"allow_http": True},
        )
        return obstore.sign(store, method, key, timedelta(seconds=seconds))


@contextmanager
def swift(environment: Path, folder: Path) -> Iterator[Bucket]:
    """Run a Swift, with an empty bucket, until the block ends."""
    ports = {name: free_port() for name in ("account", "container", "object", "proxy")}
    (folder / "devices" / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = tests\n")
    for name, port in ports.items():
        common = COMMON.format(port=port, user=getpass.getuser(), folder=folder)
        more = PROXY if name == "proxy" else STORAGE.format(name=name)
        (folder / f"{name}.conf").write_text(common + more)
    rings = [f"{name}:{port}" for name, port in ports.items() if name != "proxy"]
    subprocess.run(
        [environment / "bin/python", "-c", RINGS, folder, *rings], check=True, capture_output=True
    )
    started: dict[str, Process] = {}
    try:
        for name in ports:
            program = Program(
                name=f"swift-{name}-server",
                command=[str(environment / f"bin/swift-{name}-server"), f"{folder}/{name}.conf"],
                environment={"PATH": os.environ["PATH"]},
                directory=folder,
                tied=True,
            )
            started[name] = start(program, folder / f"{name}.log")
        wait_ready(
            {process: partial(accepts, ports[name]) for name, process in started.items()},
            START_SECONDS,
        )
        bucket = Bucket(f"http://127.0.0.1:{ports['proxy']}")
        # A link to no object is a link to the bucket, and a PUT makes it.
        httpx.put(bucket.link("PUT", "")).raise_for_status()
        yield bucket
    finally:
        stop(started.values(), grace=0)
