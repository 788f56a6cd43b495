"""Steps of a build, run in worker processes: each reads objects, applies the domain, writes objects."""
