"""Where the workers of a training meet, seen in processes of their own."""

import os
import socket
import subprocess
import sys

from tests.fakes.small_run import ROOT

PROGRAM = """
import sys
import psutil
import torch
import torch.distributed as dist
from raypipe.training.rendezvous import store_on_loopback

if sys.argv[1] == "loopback":
    store_on_loopback()
dist.init_process_group("gloo", init_method="env://")
total = torch.ones(1)
dist.all_reduce(total)
sockets = psutil.Process().net_connections("inet")
print(int(total), *{one.laddr.ip for one in sockets if one.status == "LISTEN"})
dist.barrier()
dist.destroy_process_group()
"""


def group(how: str, size: int = 2) -> list[str]:
    """What each worker of a process group says."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, how],
            cwd=ROOT,
            env=os.environ | shared | {"RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        return [worker.communicate(timeout=120)[0].strip() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()


def test_the_store_of_a_group_listens_on_loopback_alone() -> None:
    for said in group("loopback"):
        total, *addresses = said.split()
        assert total == "2"
        assert set(addresses) <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_torch_alone_would_listen_everywhere() -> None:
    """Without this the other test would prove nothing."""
    assert {"::", "0.0.0.0"} & set(" ".join(group("stock")).split())
