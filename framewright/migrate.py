"""`python -m framewright.migrate`: brings the database to the schema of this version and exits."""

from __future__ import annotations

import sys

from framewright.database import migrate
from framewright.errors import DatabaseUnavailable
from framewright.settings import settings_or_exit


def main() -> int:
    """0 when the schema is there, 75 (EX_TEMPFAIL) when the database does not answer or keeps a lock."""
    settings = settings_or_exit()
    try:
        migrate(settings.database_url.get_secret_value())
    except DatabaseUnavailable as error:
        sys.stderr.write(f"framewright: {error.detail}\n")
        return 75
    sys.stderr.write("framewright: the database has the schema of this version\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
