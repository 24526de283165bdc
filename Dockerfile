# The node on a ROS 2 image: docker build -t ditta . (or --build-arg ROS_DISTRO=lyrical), then
# docker run --rm --network host --ipc host ditta
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base

# The image's Python is that of ROS, and belongs to nobody else.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /workspace
COPY . src/ditta_ros

# torch for the CPU: PyPI's has several gigabytes of CUDA. NumPy stays the one that ROS was compiled against, and apt's
# versions are those of the distribution.
# hadolint ignore=DL3008
RUN apt-get update \
    && rosdep update --rosdistro "$ROS_DISTRO" \
    && apt-get install --yes --no-install-recommends python3-pip \
    && rosdep install --from-paths src --ignore-src --yes --dependency-types exec \
    && python3 -c 'import numpy; print(f"numpy=={numpy.__version__}")' > numpy.txt \
    && pip install --constraint numpy.txt --index-url https://download.pytorch.org/whl/cpu torch \
    && pip install --constraint numpy.txt openvino safetensors \
    && rm -rf /var/lib/apt/lists/*
RUN . "/opt/ros/$ROS_DISTRO/setup.sh" && colcon build

CMD ["bash", "-c", "source install/setup.bash && exec ros2 launch ditta_ros ditta.launch.py"]
