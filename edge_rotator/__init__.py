"""Short-lived AWS credentials for Litestream, earned with a key that stays in its token."""

__version__ = "2.0.0"
