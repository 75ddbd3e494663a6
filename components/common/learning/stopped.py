"""How somebody who watches a fit ends it; in a module of its own, which imports nothing."""


class Stopped(Exception):
    """Raised by a `learner.Watch` to end a fit whose model nobody wants any more; learners let it pass."""
