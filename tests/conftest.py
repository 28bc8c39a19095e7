"""What every test stands on: an empty environment, and examples that no slow machine fails."""

import os

import pytest
from hypothesis import HealthCheck, settings

# Time limits of examples, or of making them, would make a loaded machine fail what found nothing.
settings.register_profile(
    "pagewire", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("pagewire")

OURS = (
    "META_", "GRAPH_", "DATABASE_", "REDIS_", "TOKEN_ENCRYPTION_", "API_KEYS", "SERVICE_TOKENS",
    "TLS_", "PUBLIC_BASE_URL", "FORWARDED_ALLOW_IPS", "PAGEWIRE_", "WEBHOOK_", "OPERATOR_",
    "STORE_", "RULES_", "SYNC_", "ARCHIVE_", "METRICS_LISTEN", "LOG_LEVEL", "FAULT",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own settings reach no test."""
    for name in os.environ:
        if name.startswith(OURS):
            monkeypatch.delenv(name)
