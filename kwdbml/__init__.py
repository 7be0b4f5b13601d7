"""Machine learning as SQL: train, evaluate and apply models inside PostgreSQL."""

__version__ = "0.3.0"
