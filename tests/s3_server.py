"""An S3 server on loopback (moto's), and what a client of it needs to know."""

from __future__ import annotations

import contextlib
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "of-tests", "AWS_SECRET_ACCESS_KEY": "of-tests", "AWS_DEFAULT_REGION": "us-east-1"}

_CREDENTIALS = {name.lower(): value for name, value in KEYS.items() if name.startswith(("AWS_ACCESS", "AWS_SECRET"))}


@dataclass(frozen=True)
class Bucket:
    """A bucket of the server at `address`."""

    address: str
    name: str

    @property
    def client(self) -> Any:
        """A client with the keys, whatever the environment has."""
        return boto3.client(
            "s3",
            endpoint_url=self.address,
            **_CREDENTIALS,
            region_name=KEYS["AWS_DEFAULT_REGION"],
            config=Config(s3={"addressing_style": "path"}),
        )

    def keys(self, prefix: str = "") -> list[str]:
        """What lies in it."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    @contextlib.contextmanager
    def guarded(self) -> Iterator[dict[str, str]]:
        """The keys of a user of the server who may do nothing; for the block it asks who somebody is."""
        iam = boto3.client("iam", endpoint_url=self.address, region_name=KEYS["AWS_DEFAULT_REGION"], **_CREDENTIALS)
        iam.create_user(UserName=(nobody := f"nobody-{uuid.uuid4().hex[:8]}"))
        made = iam.create_access_key(UserName=nobody)["AccessKey"]
        _tell(self.address, "reset-auth", b"0")
        try:
            theirs = {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}
            yield {**KEYS, **theirs}
        finally:
            _tell(self.address, "reset-auth", b"inf")

    def empty(self) -> None:
        """As after the end of its objects' lives."""
        for key in self.keys():
            self.client.delete_object(Bucket=self.name, Key=key)


@contextlib.contextmanager
def s3_server(*buckets: str) -> Iterator[list[Bucket]]:
    """Serve for the block; new buckets of these names."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    made = [Bucket(f"http://{host}:{port}", name) for name in buckets]
    try:
        _tell(f"http://{host}:{port}", "reset")  # its objects outlive it
        for bucket in made:
            bucket.client.create_bucket(Bucket=bucket.name)
        yield made
    finally:
        server.stop()


def _tell(address: str, what: str, body: bytes = b"") -> None:
    """Change the server itself."""
    asked = urllib.request.Request(f"{address}/moto-api/{what}", body, {"Content-Type": "text/plain"}, method="POST")
    urllib.request.urlopen(asked).close()
