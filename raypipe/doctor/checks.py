"""The whole examination of this machine: gathers what the checks look at, and asks them."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from raypipe import config as configuration
from raypipe.config import Config
from raypipe.doctor import capacity, machine, model, packages, session
from raypipe.doctor import environment as variables
from raypipe.doctor.finding import Finding, fail, ok, warn
from raypipe.doctor.machine import Devices
from raypipe.doctor.tested_versions import TESTED
from raypipe.errors import ConfigError

_ASK_TORCH = """\
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
found = [torch.cuda.get_device_properties(number) for number in range(count)]
print(json.dumps([[gpu.name, gpu.total_memory] for gpu in found]))
"""
_SECONDS_OF_TORCH = 180


def examine(
    path: str | None, overrides: Sequence[str], environment: Mapping[str, str]
) -> Iterator[Finding]:
    """Every check of this machine, in the order in which they are told.

    Args:
        path: of the configuration; None is the embedded default.
        environment: variables of this process.
    """
    try:
        config = configuration.load(path, overrides)
        yield ok("configuration", f"{path or 'the embedded default'}, run '{config.run.name}'")
    except ConfigError as error:
        said = str(error).replace("\n", "; ")
        yield fail("configuration", said, "mend it; what follows is of the embedded default")
        config = configuration.load()
    yield packages.check_python(sys.version_info[:3])
    yield from packages.check_packages(
        packages.installed_versions(TESTED), TESTED, packages.required_versions()
    )
    yield from _machine(config, environment)
    yield from _variables(config, environment)
    yield session.check_address(environment, session.connects)
    yield from session.check_authentication(environment, Path.home())
    yield session.check_dashboard(_listening())
    yield from model.check_model(config.model, environment, model.is_cached)
    yield from _places(config)


def _wants_gpus(config: Config) -> bool:
    return config.cluster.use_gpu or config.sampling.gpus_per_actor > 0


def _machine(config: Config, environment: Mapping[str, str]) -> Iterator[Finding]:
    wanted, joins = _wants_gpus(config), bool(environment.get("RAY_ADDRESS"))
    devices = look_for_devices()
    found = machine.check_devices(devices, wanted=wanted, joins=joins)
    yield found
    if found.verdict != "fail":
        yield from _capacity(config, environment, devices)
    programs = Path(sysconfig.get_path("scripts"))
    yield from machine.check_compiler(shutil.which, programs, needed=not config.cluster.use_gpu)
    shared = Path("/dev/shm")
    free = shutil.disk_usage(shared).free if shared.is_dir() else None
    yield from machine.check_shared_memory(free, devices.memory)


def _capacity(
    config: Config, environment: Mapping[str, str], devices: Devices
) -> Iterator[Finding]:
    address = environment.get("RAY_ADDRESS", "").strip()
    if address in ("", "local", "local_mode"):
        room = capacity.room_of_machine(config, devices)
        yield from capacity.check_capacity(config, room, joins=False)
        return
    if session.check_address(environment, session.connects).verdict != "ok":
        return  # told below
    if address.startswith("http"):
        return  # a job server: the job that it starts sees more
    found = capacity.room_of_cluster(address)
    if isinstance(found, str):
        yield warn("cluster's resources", f"it does not tell them: {found}", "see: ray status")
    else:
        yield from capacity.check_capacity(config, found, joins=True)


def look_for_devices() -> Devices:
    """What torch sees, asked in a process of its own, and what the driver says of itself."""
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    driver = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
        driver = answer.stdout.strip().partition("\n")[0]
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH],
            capture_output=True,
            text=True,
            timeout=_SECONDS_OF_TORCH,
            check=True,
        )
        gpus = [(str(name), int(size)) for name, size in json.loads(answer.stdout)]
    except subprocess.CalledProcessError as error:
        fault = (error.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return Devices((), driver, fault, cores, memory)
    except (subprocess.TimeoutExpired, ValueError) as error:
        return Devices((), driver, str(error), cores, memory)
    return Devices(gpus, driver, "", cores, memory)


def _variables(config: Config, environment: Mapping[str, str]) -> Iterator[Finding]:
    sampling = config.sampling
    given = {name: value for name, value in sampling.environment.items() if value is not None}
    of_engine = {**environment, **given}
    yield from variables.check_taken(environment, sampling.environment)
    yield from variables.check_switches(of_engine)
    yield from variables.check_stale(of_engine, variables.known_to_vllm())
    if not sampling.gpus_per_actor:
        actors = 1 if environment.get("RAY_ADDRESS") else sampling.num_actors or 1
        cores = os.cpu_count() or 1
        yield from variables.check_threads(of_engine, actors=actors, cores=cores)
    yield from variables.check_allocator(of_engine, sampling.engine)
    yield from variables.check_gpus_shown(environment, wanted=_wants_gpus(config))
    for name in ("evals", "annotation"):
        section = getattr(config, name)
        if section.endpoint is not None:
            yield variables.check_key(environment, name, section.key_variable)


def _listening() -> str:
    """What /proc says of this machine's listening sockets; empty elsewhere."""
    text = ""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            text += Path("/proc/net", name).read_text()
    return text


def _places(config: Config) -> Iterator[Finding]:
    from raypipe.doctor.storage import check_storage

    directory = config.run.directory
    yield check_storage(directory)
    disks = {"Ray's spill (/tmp)": Path("/tmp"), "caches (~/.cache)": Path.home()}
    if "://" not in directory:
        disks = {f"disk of {directory}": Path(directory).resolve(), **disks}
    for what, place in disks.items():
        existing = next(folder for folder in (place, *place.parents) if folder.exists())
        usage = shutil.disk_usage(existing)
        yield machine.check_disk(what, usage.free, usage.total)
