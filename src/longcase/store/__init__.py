"""Where cases live: the port every store implements, and the stores."""
