"""The command line: words and columns over `service`. `main` is the way in; no rule lives here."""
