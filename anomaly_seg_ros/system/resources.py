# SPDX-License-Identifier: Apache-2.0
"""Finds the package's own files: config/, assets/ and weights/, in a checkout or installed.

Weights are inside the package. config/ and assets/ are beside it in a source checkout, and in
``<prefix>/share/anomaly_seg_ros`` of an installed tree, at whatever depth Python modules are there
(``lib/python3.12/site-packages``, ``local/lib/python3.10/dist-packages``, ...).
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from anomaly_seg_ros.errors import AnomalySegError

PACKAGE_NAME = "anomaly_seg_ros"

# Resolved: with `colcon build --symlink-install` the imported file links into the checkout.
_PACKAGE_FOLDER = Path(__file__).resolve().parents[1]


class ResourceError(AnomalySegError):
    """A file of the package itself that is missing from the installation."""


def config_path(relative: str | Path) -> Path:
    """Path of a file or folder below config/, such as ``detector.yaml``.

    Raises:
        ResourceError: It is in none of the places searched, which the message lists.
    """
    return _find(Path("config") / relative)


def asset_path(relative: str | Path) -> Path:
    """Path of a file or folder below assets/, such as ``demo_clip``.

    Raises:
        ResourceError: It is in none of the places searched, which the message lists.
    """
    return _find(Path("assets") / relative)


def weights_dir() -> Path:
    """The folder of the shipped safetensors files.

    Raises:
        ResourceError: The package was installed without its weights.
    """
    folder = _PACKAGE_FOLDER / "weights"
    if not folder.is_dir():
        raise ResourceError(f"no folder of shipped weights at {folder}")
    return folder


def _find(relative: Path) -> Path:
    # Taxonomy names come from files, and must not lead anywhere else.
    if relative.is_absolute() or ".." in relative.parts or "\0" in str(relative):
        raise ResourceError(f"{PACKAGE_NAME}: {str(relative)!r} leads out of its own files")
    roots = _roots(_PACKAGE_FOLDER)
    for root in roots:
        candidate = root / relative
        # pathlib's exists raises an OSError for names that are too long.
        if os.path.exists(candidate):  # noqa: PTH110
            return candidate
    places = ", ".join(str(root) for root in roots) or f"no share folder above {_PACKAGE_FOLDER}"
    raise ResourceError(f"{PACKAGE_NAME} has no file {relative}; looked in: {places}")


@cache
def _roots(package_folder: Path) -> tuple[Path, ...]:
    """Folders that hold config/ and assets/, the preferred one first."""
    checkout = package_folder.parent
    if (checkout / "package.xml").is_file() and (checkout / "setup.py").is_file():
        return (checkout,)
    shares = [parent / "share" / PACKAGE_NAME for parent in package_folder.parents]
    found = [share for share in shares if share.is_dir()]
    indexed = _ament_share()
    if indexed is not None and indexed not in found:
        found.append(indexed)
    return tuple(found)


def _ament_share() -> Path | None:
    """The share folder in a sourced ROS workspace, or None without one."""
    try:
        from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
    except ImportError:
        return None
    # The library raises an OSError if AMENT_PREFIX_PATH is not set.
    try:
        return Path(get_package_share_directory(PACKAGE_NAME))
    except (PackageNotFoundError, OSError):
        return None
