"""A cluster serving a trace under the virtual clock: the real cores, hidden device models, no faults. `headstart simulate`."""
