"""Measured claims: ours and the peer's in one run (``scripts/bench NAME``).

server.py   the embedded server in a directory that goes away, its databases, workers
report.py   sides that alternate, medians, the closing line
peers/      what ours is measured against, written as its own documentation recommends
NAME.py     one bench each: ``run(server, scale)`` answers its ``Result``
"""
