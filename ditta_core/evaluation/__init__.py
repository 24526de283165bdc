"""What is measured: plan, trials, runners, metrics, corruptions, methods."""
