"""Stands for the package of ROS that is not on PyPI."""
