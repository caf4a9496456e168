"""The front door: REST, sockets and pages over the shared floor."""
