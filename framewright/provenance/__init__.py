"""Provenance: signed C2PA manifests that say how an output was made, and reading them back.

`credentials` are what signs, `manifest` is what is said, `signing` and `verifying` do it, each in a child process:
C2PA's library parses what strangers sent, so it is loaded neither by the API nor by a supervisor.
"""
