"""The flights of the demo, as benches need them."""

from __future__ import annotations

from typing import LiteralString

from bench.report import progress
from bench.server import Site
from scripts import demo_data

#: As in the demo: what is known before departure, with missing values in numbers and texts.
FEATURES: tuple[LiteralString, ...] = (
    "month", "day", "hour", "minute", "distance", "temp", "wind_speed", "precip", "visib", "seats",
    "carrier", "origin", "dest", "manufacturer",
)  # fmt: skip
TEXTS = ("carrier", "origin", "dest", "manufacturer")
TARGET = "late"
RELATION = "bench.late_flights"

_VIEW = """
CREATE VIEW bench.late_flights AS
SELECT f.id, f.month, f.day, f.hour, f.minute, f.distance, f.carrier, f.origin, f.dest,
       p.manufacturer, p.seats, w.temp, w.wind_speed, w.precip, w.visib, f.arr_delay > 15 AS late
FROM public.flights f
LEFT JOIN public.weather w ON (w.origin, w.time_hour) = (f.origin, f.time_hour)
LEFT JOIN public.planes p ON p.tailnum = f.tailnum"""
_PIPELINE = """
SELECT kwdbml.create_training_pipeline(pipeline_name => 'bench.late', algorithm => 'hist_gradient_boosting',
    target => 'late', train_data => 'bench.late_flights', features => %s::text[])"""


def load(site: Site, *, smoke: bool) -> int:
    """Tables, view and a built-in pipeline ``bench.late``; how many flights there are."""
    progress("the flights")
    demo_data.load(site.admin)
    if smoke:
        site.admin.execute("DELETE FROM public.flights WHERE id % 100 <> 0")
        site.admin.execute("ANALYZE public.flights")
    site.admin.execute("GRANT SELECT ON public.flights, public.weather, public.planes TO bench")
    site.person.execute(_VIEW)
    site.rows(_PIPELINE, list(FEATURES))
    return int(site.value("SELECT count(*) FROM bench.late_flights"))
