"""Moving one file to or from S3: parts that can be sent again, a download that goes on where it was."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Callable, Generator
from functools import partial
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final

from framewright.errors import ObjectMissing, StorageUnavailable
from framewright.s3 import Patience, StorageRefused, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

MAX_PARTS: Final = 10_000
CHUNK_BYTES: Final = 256 * 1024


class Upload:
    """One file on its way to one key: in one request, or in parts that are dropped again unless all arrive."""

    def __init__(self, client: S3Client, where: dict[str, Any], about: dict[str, Any], file: BinaryIO) -> None:
        self._client = client
        self._where = where
        self._about = about
        self._file = file

    def whole(self, size: int, md5: bytes) -> None:
        """Sends the file in one request; S3 checks the MD5."""
        self._file.seek(0)
        checked: dict[str, Any] = {"ContentLength": size, "ContentMD5": base64.b64encode(md5).decode()}
        with translated("upload to"):
            self._client.put_object(**self._where, **self._about, **checked, Body=self._file)

    def in_parts(self, size: int, part_bytes: int, patience: Patience, sent: Callable[[int], None]) -> None:
        """Sends the file in parts of at least `part_bytes`; `sent` hears the bytes that S3 has so far."""
        upload_id = patience(self._begin)
        try:
            step = max(part_bytes, -(-size // MAX_PARTS))
            parts: list[CompletedPartTypeDef] = []
            for start in range(0, size, step):
                length = min(step, size - start)
                number = len(parts) + 1
                etag = patience(partial(self._put, upload_id, number, start, length))
                parts.append({"ETag": etag, "PartNumber": number})
                sent(start + length)
            patience(lambda: self._complete(upload_id, parts))
        except BaseException:
            # Best effort: what stays is found by the janitor as a stale multipart.
            with contextlib.suppress(StorageUnavailable, ObjectMissing), translated("clean up"):
                self._client.abort_multipart_upload(**self._where, UploadId=upload_id)
            raise

    def _begin(self) -> str:
        with translated("upload to"):
            return self._client.create_multipart_upload(**self._where, **self._about)["UploadId"]

    def _put(self, upload_id: str, number: int, start: int, length: int) -> str:
        body: Any = io.BufferedReader(_Part(self._file, start, length), CHUNK_BYTES)
        try:
            with translated("upload to"):
                answer = self._client.upload_part(
                    **self._where, UploadId=upload_id, PartNumber=number, Body=body, ContentLength=length
                )
        except ObjectMissing:
            raise StorageRefused("storage has forgotten an upload in parts") from None
        return answer["ETag"]

    def _complete(self, upload_id: str, parts: list[CompletedPartTypeDef]) -> None:
        try:
            with translated("upload to"):
                self._client.complete_multipart_upload(
                    **self._where, UploadId=upload_id, MultipartUpload={"Parts": parts}
                )
        except ObjectMissing:
            # The reply to an earlier try was lost: all is there and the id forgotten. The caller's HEAD decides.
            return


class Fetch:
    """A download that knows how far it is, so that `rest` can be called again."""

    def __init__(self, client: S3Client, where: dict[str, Any], file: IO[bytes], patience: Patience) -> None:
        self._client = client
        self._where = where
        self._file = file
        self._patience = patience
        self._size: int | None = None
        self._same: dict[str, Any] = {}

    def rest(self) -> None:
        """Downloads what is missing; `StorageUnavailable` when the line drops on the way."""
        done = self._file.tell()
        if done == self._size:
            return
        with translated("download from"):
            span: dict[str, Any] = {"Range": f"bytes={done}-", **self._same} if done else {}
            answer = self._client.get_object(**self._where, **span)
        self._size = done + answer["ContentLength"]
        self._same = {"IfMatch": answer["ETag"]} if "ETag" in answer else {}
        for chunk in chunks(answer["Body"]):
            self._file.write(chunk)
            self._patience.worked()
            self._patience.check()
        if self._file.tell() != self._size:
            raise StorageUnavailable("storage sent less than it promised")


def chunks(body: Any) -> Generator[bytes, None, None]:
    """The bytes of a response body; closes it at the end, or when the generator is closed."""
    try:
        while True:
            with translated("read from"):
                chunk = body.read(CHUNK_BYTES)
            if not chunk:
                return
            yield chunk
    finally:
        body.close()


class _Part(io.RawIOBase):
    """A window on a file that boto can send, rewind and send again."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._length = length
        self._file = file
        self._start = start
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = min(max(0, base + offset), self._length)
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        data = self._file.read(min(len(buffer), self._length - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
