"""The worker: takes jobs from the database, runs them on an engine, and lands what comes out.

``loop.py`` claims, keeps leases and sweeps; ``job.py`` takes one attempt through its phases; ``inputs.py`` fills the
workspace; ``landing.py`` collects and lands. ``docs/job-states.md`` draws the states.
"""
