"""What runs inside a job: load, prepare, train, evaluate, predict, save, compare. The only place where user code runs.

``python -m kwdbml.steps <workspace>`` reads ``<workspace>/in`` and writes ``<workspace>/out``; there is no database,
no network and no key here. The way of a job through the modules is in :mod:`kwdbml.steps.run`; what a bundle holds and
how its code is called in :mod:`kwdbml.steps.bundle`.
"""
