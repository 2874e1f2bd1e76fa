"""A cluster that speaks TLS and loses nodes: the worker and the client go to who has the keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import RedisCluster

from convolab_worker import Settings
from tests.faults.test_failover import working
from tests.support.cluster import Cluster
from tests.support.kinds import debian_redis, make_certificates
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.long]

PREFIX = "{bull}"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes with a replica each, which speak TLS alone."""
    make_certificates(tmp_path)
    with Cluster(debian_redis(), replicas=1, tls=tmp_path) as cluster:
        yield cluster


def _settings(cluster: Cluster, node: int, queue: str) -> Settings:
    return Settings(
        redis_url=cluster.urls[node],
        prefix=PREFIX,
        queues=(queue,),
        idle_min=60.0,
        idle_max=60.0,
        lock_duration=10.0,
    )


@pytest.mark.parametrize("seed", ["gone", "left"])
async def test_a_replica_takes_over_from_a_node_that_is_gone_for_good(
    cluster: Cluster, queue_name: str, seed: str
) -> None:
    """Also where the address names the very node that is gone."""
    home = cluster.owner(PREFIX)
    replica = cluster.nodes[home + 3]
    node = home if seed == "gone" else (home + 1) % 3
    async with working(_settings(cluster, node, queue_name)) as jobs:
        await jobs.ends("first", within=10)
        running = asyncio.create_task(jobs.ends(6.0, within=30))
        await wait_until(lambda: jobs.worker.stats()["running"] == 1, what="the job")
        await asyncio.to_thread(cluster.nodes[home].wait, 1, 5000)

        await asyncio.to_thread(cluster.servers[home].kill)
        await wait_until(
            lambda: (
                "cluster_state:ok" in replica.execute_command("CLUSTER", "INFO")
                and replica.role()[0] == "master"
            ),
            timeout=20,
            what="the failover",
        )

        await jobs.ends("second", within=3)
        await running


async def test_slots_move_while_jobs_run(cluster: Cluster, queue_name: str) -> None:
    """To and fro, with jobs under way all the time: each ends once, with its result."""
    home = cluster.owner(PREFIX)
    other = (home + 1) % 3
    async with working(_settings(cluster, home, queue_name)) as jobs:
        adding = [asyncio.create_task(jobs.ends(0.001 + n / 100, within=30)) for n in range(60)]
        for source, target in ((home, other), (other, home)):
            await asyncio.to_thread(cluster.move, PREFIX, source, target)
        await asyncio.gather(*adding)
        stats = jobs.worker.stats()
    assert "failed" not in stats["outcomes"]


async def test_a_cluster_client_of_redis_py_says_where_the_nodes_are(
    cluster: Cluster, queue_name: str, tmp_path: Path
) -> None:
    """Its TLS options go along."""
    client: Any = RedisCluster.from_url(cluster.urls[0])
    settings = Settings.from_redis(
        client, prefix=PREFIX, queues=(queue_name,), idle_min=60.0, idle_max=60.0
    )

    async with working(settings) as jobs:
        await jobs.ends("told", within=10)

    assert settings.redis_given is not None
    assert ("ssl_ca_certs", str(tmp_path / "ca.crt")) in settings.redis_given.url["tls_options"]
    await client.aclose()
