"""The command `ditta`: one file per subcommand."""
