"""``kwdbml doctor``: looks at everything a worker needs, one by one, and says what is wrong and the cure.

``checks.py`` says what a check is; ``database.py`` and ``machine.py`` look at the server and at this machine,
``kwdbml.engines.kfp.checks`` and ``storechecks`` at Kubeflow; ``examination.py`` puts them in order, ``report.py``
tells. Every check looks at the real thing with what the worker itself uses, and leaves nothing behind but, where it was
not there, the experiment of our runs.
"""
