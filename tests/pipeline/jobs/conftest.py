"""The PostgreSQL that the backends are tested on."""

from tests.pipeline.backends.conftest import make_postgres_database

__all__ = ["make_postgres_database"]
