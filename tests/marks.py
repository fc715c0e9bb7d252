"""The marks of tests that run on one database instead of both."""

import pytest

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
"""What the test shows exists on PostgreSQL only."""

on_one_database = on_postgresql
"""What the test shows does not depend on the database."""
