"""``python -m kwdbml``: the command line."""

from kwdbml.cli import app

app()
