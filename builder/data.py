"""Where the shipped files are: `runtimes/`, in a checkout beside `builder/`, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def runtimes_dir() -> Path:
    """The folder `runtimes/` of this installation. Raises `FileNotFoundError` when the installation is incomplete."""
    for candidate in (_PACKAGE / "_data" / "runtimes", _PACKAGE.parent / "runtimes"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"runtimes/ is neither in {_PACKAGE / '_data'} nor beside {_PACKAGE}")


def catalog_file(setting: str) -> Path:
    """The catalog that the setting `catalog` names; by default the shipped one."""
    return Path(setting) if setting else runtimes_dir() / "catalog.toml"
