"""Why nothing comes out: what `ditta doctor` examines. Each check ends in findings, never in an exception."""
