"""The environment that markers (PEP 508) are judged in: CPython on linux/amd64, as the artifact runs. Pure."""

from __future__ import annotations

from builder.pipelines.limits import LINE_LIMIT


def environment(release: str) -> dict[str, str]:
    """The variables of markers for a release of Python ("3.11.2")."""
    return {
        "implementation_name": "cpython",
        "implementation_version": release,
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": release,
        "python_version": ".".join(release.split(".")[:2]),
        "sys_platform": "linux",
        "extra": "",
    }


def applies(marker: object, release: str) -> bool:
    """Whether a marker holds there; what is no marker does, so that nothing is left out by a mistake."""
    from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName

    if not isinstance(marker, str) or not marker.strip() or len(marker) > LINE_LIMIT:
        return True
    try:
        return Marker(marker).evaluate(environment(release))
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName, RecursionError, ValueError):
        return True
