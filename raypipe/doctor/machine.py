"""What this machine has: devices, a compiler, memory that is shared, disks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raypipe.doctor.finding import Finding, fail, ok, warn
from raypipe.errors import EXIT_RETRY

GIB = 1 << 30
LEAST_DRIVER = "580.65.06"
"""Nvidia's for CUDA 13, for which requirements/gpu.txt pins torch and vLLM."""
# Ray's own figures (ray/_private/ray_constants.py, ray_config_def.h).
_OBJECT_STORE_SHARE = 0.3
_OBJECT_STORE_MOST = 200 * 10**9
_SHM_ENOUGH = 10**10
_SHM_USABLE = 0.95
_DISK_FULL = 0.95


@dataclass(frozen=True)
class Devices:
    """What a fresh Python process saw of this machine.

    ``gpus`` are (name, bytes) as torch sees them, ``driver`` is Nvidia's version, ``fault`` why
    torch could not be asked; all empty where there is none.
    """

    gpus: Sequence[tuple[str, int]] = field(default=())
    driver: str = ""
    fault: str = ""
    cores: int = 1
    memory: int = 0


def check_devices(devices: Devices, *, wanted: bool, joins: bool) -> Finding:
    """Args:
    wanted: whether the configuration asks for GPUs.
    joins: whether jobs run on a cluster, which may have what this machine lacks.
    """
    what = "devices"
    if devices.fault:
        return fail(what, f"torch does not start: {devices.fault}", "install torch again")
    if devices.gpus:
        names = ", ".join(f"{name} {memory / GIB:.0f} GiB" for name, memory in devices.gpus)
        driver = f", driver {devices.driver}" if devices.driver else ""
        return ok(what, f"{len(devices.gpus)} GPU: {names}{driver}")
    machine = f"CPU, {devices.cores} cores, {devices.memory / GIB:.0f} GiB"
    if not wanted:
        return ok(what, machine)
    seen = f", though a driver is here ({devices.driver})" if devices.driver else ""
    if joins:
        return warn(what, f"{machine}{seen}; the cluster must have the GPUs", "see: ray status")
    remedy = f"another --config, or a driver that torch's CUDA accepts ({LEAST_DRIVER} or newer)"
    return fail(what, f"{machine}{seen}; the configuration asks for GPUs", remedy)


def check_compiler(
    which: Callable[[str], str | None], beside_python: Path, *, needed: bool
) -> Iterator[Finding]:
    """g++ and ninja, which DeepSpeed compiles one extension with before it trains on a CPU.

    Args:
        which: finds a program on the PATH.
        beside_python: the folder of the environment's own programs.
        needed: whether trainings run on CPUs.
    """
    for program in ("g++", "ninja"):
        found = which(program)
        if found is not None:
            yield ok(program, found)
        elif not needed:
            yield ok(program, "not there; nothing is compiled on GPUs")
        elif (beside_python / program).is_file():
            yield fail(
                program,
                f"in {beside_python}, which is not on the PATH",
                f"export PATH={beside_python}:$PATH",
            )
        else:
            yield fail(
                program,
                "not there; DeepSpeed compiles an extension before the first training",
                f"apt-get install {'g++' if program == 'g++' else 'ninja-build'}",
            )


def check_shared_memory(free: int | None, memory: int) -> Iterator[Finding]:
    """Whether Ray's object store fits into /dev/shm; otherwise it lies on a disk, slowly.

    Args:
        free: bytes left in /dev/shm; None where there is none.
        memory: of this machine, in bytes.
    """
    if free is None:
        return
    most = min(_OBJECT_STORE_MOST, max(_SHM_ENOUGH, int(free * _SHM_USABLE)))
    store = min(int(memory * _OBJECT_STORE_SHARE), most)
    said = f"{free / GIB:.1f} GiB free, Ray's object store takes {store / GIB:.1f}"
    if free < store:
        yield warn(
            "/dev/shm",
            f"{said}: it would lie on a disk",
            f"--shm-size={store / 1e9:.0f}gb in Docker",
        )
    else:
        yield ok("/dev/shm", said)


def check_disk(what: str, free: int, total: int) -> Finding:
    """Args:
    what: the folder, as it is told.
    free: bytes that may still be written.
    total: bytes of the whole disk.
    """
    said = f"{free / GIB:.1f} of {total / GIB:.0f} GiB free"
    full = total > 0 and 1 - free / total > _DISK_FULL
    if free < GIB:
        return fail(what, said, "free some space, or run.directory= another disk", EXIT_RETRY)
    if full:
        return warn(what, f"{said}: Ray spills nothing to a disk that is 95 % full", "free space")
    if free < 10 * GIB:
        return warn(what, said, "checkpoints and merged weights of a 3B model need about 20 GiB")
    return ok(what, said)
