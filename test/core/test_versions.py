from __future__ import annotations

import os
from importlib import metadata

import torch

from ditta_core.versions import distribution_version, software_versions


def test_versions() -> None:
    versions = software_versions()
    assert versions["torch"] == torch.__version__
    assert versions["NumPy"] == metadata.version("numpy")
    assert versions["ROS 2"] in ("none", "kilted", "jazzy") or "ROS_DISTRO" in os.environ
    assert distribution_version("no-such-distribution") == "unknown"
