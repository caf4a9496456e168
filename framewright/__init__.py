"""The shared floor of Framewright: one noun, the job, with one life."""

__version__ = "0.1.0"
