"""The command line: commands, their options, and how one ends. It starts without torch."""
