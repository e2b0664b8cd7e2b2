"""Where the workers of one training meet: on the loopback interface when they share one machine."""

import socket
from importlib import import_module
from typing import Any

from raypipe.runtime.local_session import LOOPBACK


def torch_config(backend: str) -> Any:
    """Ray Train's configuration of the process group. torch's store listens on every interface, so
    a local session hands it a socket that does not."""
    import ray
    from ray.train.torch import TorchConfig

    if ray.util.get_node_ip_address() != LOOPBACK:
        return TorchConfig(backend=backend)
    parent: Any = TorchConfig().backend_cls

    class LoopbackBackend(parent):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(store_on_loopback)
            super().on_start(worker_group, backend_config)

    class LoopbackConfig(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> Any:
            return LoopbackBackend

    return LoopbackConfig(backend=backend)


def store_on_loopback() -> None:
    """Let the stores that this process starts listen on the loopback interface alone."""
    # By its full name: torch.distributed has a function of the same one.
    rendezvous: Any = import_module("torch.distributed.rendezvous")

    def make(*, is_master: bool, port: int, **options: Any) -> Any:
        if not is_master:
            return stock(is_master=False, port=port, **options)
        listener = socket.create_server((LOOPBACK, port)).detach()  # the store closes it
        return stock(is_master=True, port=port, master_listen_fd=listener, **options)

    stock: Any = rendezvous.TCPStore
    rendezvous.TCPStore = make
