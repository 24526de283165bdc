"""ROS messages and arrays."""
