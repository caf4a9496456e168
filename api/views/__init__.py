"""What answers look like: one model for each noun, with absolute links, so that no client builds a URL."""

from __future__ import annotations

from api.hub import Latest
from api.views import assets, jobs
from framewright.rows import AssetRow, JobRow, UploadRow


class Views:
    """Builds the answers that have links; `public_url` is where every link starts."""

    def __init__(self, public_url: str) -> None:
        self._base = f"{public_url.rstrip('/')}/api/v1"

    def job_url(self, job_id: str) -> str:
        return jobs.job_url(self._base, job_id)

    def job(self, row: JobRow, latest: Latest | None = None) -> jobs.JobView:
        """The job as its owner sees it, with progress newer than the row's if any is known."""
        return jobs.job(row, self._base, latest)

    def asset(self, row: AssetRow) -> assets.AssetView:
        return assets.asset(row, self._base)

    def upload(self, row: UploadRow, url: str) -> assets.UploadView:
        """`url` is where the bytes go, presigned."""
        return assets.upload(row, url, self._base)
