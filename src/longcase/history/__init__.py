"""What has happened: the events of a case, their hash chain, and the case's state as a fold. Pure."""
