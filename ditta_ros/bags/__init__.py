"""Rosbags: read, matched, summarised, written; no node and no ROS needed."""
