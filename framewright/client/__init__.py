"""A typed, synchronous client of the HTTP API: what the command line uses and scripts may use too."""

from framewright.client.api import Client
from framewright.client.failures import ApiError, DownloadCorrupt, Unreachable
from framewright.client.http import Backoff
from framewright.client.views import Asset, Event, Job, Key, Output, Page, Worker

__all__ = [
    "ApiError",
    "Asset",
    "Backoff",
    "Client",
    "DownloadCorrupt",
    "Event",
    "Job",
    "Key",
    "Output",
    "Page",
    "Unreachable",
    "Worker",
]
