"""The names that manifests are written and read with."""

from typing import Final

SOURCES: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/"
JOB: Final = "org.framewright.job"
"""Label of our own assertion: which job and step of the service that signed made the file."""
