"""Machine learning as SQL: train, evaluate and apply models inside PostgreSQL."""

__version__ = "0.1.0"
