"""A video played as a camera, and the masks of a node recorded: for the demo and for evaluating a running node."""
