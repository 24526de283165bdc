"""Which software, on which machine, made a number."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import cv2
import numpy as np
import torch


def software_versions() -> dict[str, str]:
    """Versions by name, and the machine's cores."""
    ros = os.environ.get("ROS_DISTRO") or next(
        (name for name in ("jazzy", "kilted") if distribution_version(f"ros-{name}-rclpy") != "unknown"), "none"
    )
    return {
        "ditta_ros": distribution_version("ditta_ros"),
        "Python": platform.python_version(),
        "ROS 2": ros,
        "torch": torch.__version__,
        "OpenCV": cv2.__version__,
        "NumPy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def distribution_version(name: str) -> str:
    """The version of an installed distribution, or unknown."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
