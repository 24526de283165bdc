"""DiTTA as a ROS 2 node. No mathematics here beyond converting a message."""
