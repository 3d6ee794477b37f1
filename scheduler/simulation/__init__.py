"""The cores under a virtual clock: how we find out whether the protocol is right."""
