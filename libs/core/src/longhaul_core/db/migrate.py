"""`python -m longhaul_core.db.migrate`: brings the schema of `LONGHAUL_DATABASE_URL` to this program's version."""

from __future__ import annotations

import sys

from longhaul_core.db.database import Database
from longhaul_core.errors import LonghaulError
from longhaul_core.logging import configure_logging, get_logger
from longhaul_core.settings import ServiceSettings, load_settings

EXIT_FAILED = 78


def main() -> int:
    """Migrate; several may run at once, one does the work."""
    try:
        settings = load_settings(ServiceSettings)
        configure_logging("migrate", settings.log_level, settings.log_format)
        database = Database.open(settings.resolved_database_url, migrated=True)
    except LonghaulError as error:
        sys.stderr.write(f"migrate: {error}\n")
        return EXIT_FAILED
    get_logger(__name__).info("schema is current", database=database.url)
    database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
