from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import pools, rows

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]
