"""Whether the installed packages are those that raypipe was tested with."""

from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata

from raypipe.doctor.finding import Finding, fail, ok, warn

_INSTALL = (
    "make test, or uv pip install --no-deps --require-hashes -r requirements/cpu.txt (on GPUs "
    "gpu.txt)"
)


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions by name, without importing anything; vLLM's CPU build counts as vLLM."""
    found = {}
    for name in names:
        for distribution in (name, f"{name}-cpu"):
            try:
                found[name] = metadata.version(distribution)
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def required_versions() -> dict[str, str]:
    """What raypipe's own metadata asks for, as specifiers by name; empty when it is not installed.

    Both of vLLM's builds count as vLLM.
    """
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("raypipe") or []
    except metadata.PackageNotFoundError:
        return {}
    requirements = map(Requirement, lines)
    return {
        requirement.name.removesuffix("-cpu"): str(requirement.specifier)
        for requirement in requirements
    }


def check_python(version: tuple[int, ...]) -> Finding:
    """Args: version: such as ``sys.version_info[:3]``."""
    said = ".".join(map(str, version))
    if (3, 11) <= version[:2] < (3, 13):
        return ok("Python", said)
    return fail("Python", f"{said}, raypipe needs 3.11 or 3.12", "make a virtual environment of it")


def check_packages(
    installed: Mapping[str, str], tested: Mapping[str, str], required: Mapping[str, str]
) -> Iterator[Finding]:
    """A package that is absent or outside what raypipe asks for fails; another than the tested
    version is doubtful.

    Args:
        installed: version by name.
        tested: version by name, of everything that is looked at.
        required: specifier by name, such as ">=2.60".
    """
    from packaging.specifiers import SpecifierSet

    for name, version in tested.items():
        found = installed.get(name)
        if found is None:
            yield fail(name, f"not installed; tested with {version}", _INSTALL)
            continue
        asked = required.get(name, "")
        # A local label such as +cpu or +cu130 is another build of the same version.
        if not SpecifierSet(asked).contains(found, prereleases=True):
            yield fail(name, f"{found}, raypipe needs {asked}", _INSTALL)
        elif found.partition("+")[0] != version:
            yield warn(name, f"{found}, tested with {version}", _INSTALL)
        else:
            yield ok(name, found)
