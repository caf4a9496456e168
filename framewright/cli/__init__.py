"""The command line: `framewright ...`. HTTP only, but for `up`, `demo` and `doctor`."""

from framewright.cli.entry import main

__all__ = ["main"]
