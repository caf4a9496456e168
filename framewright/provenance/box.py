"""What the two children of this package have in common: limits, C2PA's settings, and the way they speak."""

from __future__ import annotations

import json
import resource
import sys
from typing import Any, Final

OPERATOR: Final = "[system_anchors]"
"""What the library calls the list that the operator's certificates are put in, when it says where it found one."""
DEVELOPMENT: Final = "[user_anchors]"


USES: Final = ("1.3.6.1.5.5.7.3.4", "1.3.6.1.5.5.7.3.36", "1.3.6.1.4.1.311.76.59.1.9", "1.3.6.1.4.1.62558.2.1")
"""Extended key usages of signing certificates: emailProtection, documentSigning, and those of Microsoft and the C2PA.

The library's own list has the first only.
"""


def lock(*, memory: int, cpu_s: int, file_bytes: int, files: int) -> None:
    """From now on this process may use that much: bytes of address space, CPU seconds, bytes a file, descriptors."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: files,
    }
    for kind, wanted in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):
            if kind is not resource.RLIMIT_AS:  # macOS refuses some address-space limits
                raise


def library_settings(
    *, operator: str | None = None, development: str | None = None, hosts: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Settings of the library: it trusts those certificates (PEM), and reaches no host but `hosts`.

    No thumbnails, because what was cropped away would live on in one; no part of a clip that is not hashed.
    """
    trust = {"trust_anchors": operator, "user_anchors": development, "trust_config": "\n".join(USES)}
    return {
        "version": 1,
        "builder": {"thumbnail": {"enabled": False}, "bmff_hash_exclude_free_and_skip_boxes": False},
        "core": {
            "allowed_network_hosts": list(hosts),
            "allow_redirects": False,
            "decode_identity_assertions": False,
            # Above this many MiB a copy goes to the disk instead of into memory.
            "backing_store_memory_threshold_in_mb": 8,
        },
        "trust": {name: text for name, text in trust.items() if text},
        "verify": {
            "verify_after_sign": True,
            # The library reads back what it wrote, so a disk that ran full cannot look like a signed file.
            "verify_after_sign_hash": True,
            "ocsp_fetch": False,
            "remote_manifest_fetch": False,
        },
    }


def say(document: dict[str, Any]) -> None:
    """One line of JSON to the parent."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
