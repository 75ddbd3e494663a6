"""What the server counts and times, in Prometheus' text format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """The counters of one server; each server has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        here = self.registry
        prefix = "kfp_foundry"
        self.requests = Counter(f"{prefix}_requests", "Prediction requests by protocol and HTTP status.", ["protocol", "code"], registry=here)
        self.seconds = Histogram(f"{prefix}_request_seconds", "Time to answer a prediction request.", ["protocol"], buckets=SECONDS, registry=here)
        self.rows = Counter(f"{prefix}_rows", "Rows predicted.", ["protocol"], registry=here)
        self.in_flight = Gauge(f"{prefix}_requests_in_flight", "Prediction requests being answered.", registry=here)
        self.payload_rows = Counter(
            f"{prefix}_payload_log_rows", "Rows of the payload log: written, dropped (queue full), failed (disk).", ["outcome"], registry=here
        )
        self.payload_waiting = Gauge(f"{prefix}_payload_log_waiting_rows", "Rows of the payload log that are not on disk yet.", registry=here)
        self.model = Gauge(f"{prefix}_model_info", "The model that answers; always 1.", ["model", "version", "digest", "task"], registry=here)
        for outcome in ("written", "dropped", "failed"):
            self.payload_rows.labels(outcome)

    def watch_payload_log(self, waiting: Callable[[], float]) -> None:
        """Reads the number of waiting rows when it is asked for."""
        self.payload_waiting.set_function(waiting)

    def count_payload(self, outcome: str, rows: int) -> None:
        """Counts rows of the payload log."""
        self.payload_rows.labels(outcome).inc(rows)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)
