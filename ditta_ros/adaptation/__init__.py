"""Adaptation in the node: the worker process, and the services that ask for one."""
