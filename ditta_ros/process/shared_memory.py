"""The Fast DDS profile that carries camera images between processes without loss.

By default Fast DDS loses most best-effort images of 640×360 and more, with the profile none. It must be in the
environment of the *publisher* before ``rclpy.init``; a subscriber alone with it gains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROFILE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
OLD_PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
"""The only one that Jazzy (rclpy 7) and earlier read; Kilted (rclpy 9) reads it too, but warns in every process."""
TRANSPORTS_VARIABLE = "FASTDDS_BUILTIN_TRANSPORTS"
"""With it users choose the transports without a profile, which would override it."""
CHOICES = (PROFILE_VARIABLE, OLD_PROFILE_VARIABLE, TRANSPORTS_VARIABLE)
"""Where one of these is set, the user has chosen how images travel."""


def share_folder() -> Path:
    """Where ``config/`` and ``launch/`` of this package lie: the checkout, or share/ditta_ros of an installation.

    Raises:
        FileNotFoundError: in neither.
    """
    root = Path(__file__).resolve().parents[2]
    # pip and colcon put share/ into the prefix of this file: <prefix>/lib/python3.x/site-packages/ditta_ros.
    candidates = [root, *(prefix / "share" / "ditta_ros" for prefix in root.parents)]
    for candidate in candidates:
        if (candidate / "config" / "fastdds.xml").is_file():
            return candidate
    raise FileNotFoundError(
        f"expected config/fastdds.xml in {root} or in share/ditta_ros of the prefix around it, but found neither; "
        f"install the package with pip or colcon"
    )


def profile_variables() -> tuple[str, ...]:
    """The variables that the installed ROS reads; both where it is not known."""
    try:
        kilted = int(version("rclpy").partition(".")[0]) >= 9
    except PackageNotFoundError:
        return PROFILE_VARIABLE, OLD_PROFILE_VARIABLE
    return (PROFILE_VARIABLE,) if kilted else (OLD_PROFILE_VARIABLE,)


def shared_memory_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add to ``environment`` for the shared-memory profile; none where the user has chosen already."""
    if any(environment.get(name) for name in CHOICES):
        return {}
    return dict.fromkeys(profile_variables(), str(share_folder() / "config" / "fastdds.xml"))
