"""What the rules service reads from its environment."""

from pydantic import Field

from pagewire_runtime.settings import CommonSettings, Listen


class Settings(CommonSettings):
    """Read once, in `main`."""

    listen: Listen = Field(
        "127.0.0.1:50052",
        validation_alias="RULES_LISTEN",
        description="Where the gRPC server listens.",
    )
    store_target: str = Field(
        "127.0.0.1:50051",
        validation_alias="STORE_TARGET",
        description="Where the rule books come from.",
    )
