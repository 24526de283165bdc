"""The evaluation as users run it: inputs, trials, the running node as a method."""
