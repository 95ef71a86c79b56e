"""What is counted, for Prometheus. The first two names are the origin's; its dashboards keep working."""

import time
from datetime import datetime

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from infrastructure.shared_metrics import all_workers

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SAVES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class PrometheusMetrics:
    """Counts into a registry of its own, so that two servers in one process do not share numbers."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._transaction_seconds = Histogram(
            "sse_transaction_duration_seconds",
            "How long a turn's unit of work took.",
            ["operation"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._commits = Counter(
            "sse_transaction_commits", "How units of work ended.", ["operation", "status"], registry=registry
        )
        self._lifetime = Histogram(
            "sse_stream_lifetime_seconds", "How long streams were open.", buckets=_SECONDS, registry=registry
        )
        self._open_streams = Gauge(
            "sse_open_streams", "Streams open now.", registry=registry, multiprocess_mode="livesum"
        )
        self._running = Gauge(
            "turns_running", "Turns running now.", registry=registry, multiprocess_mode="livesum"
        )
        self._turns = Counter("turns_ended", "How turns ended.", ["kind", "outcome"], registry=registry)
        self._turn_seconds = Histogram(
            "turn_duration_seconds", "How long turns ran.", ["kind"], buckets=_SECONDS, registry=registry
        )
        self._conflicts = Counter("append_conflicts", "Appends that met another writer.", registry=registry)
        self._batch = Histogram(
            "append_batch_saves", "How many saves were stored together.", buckets=_SAVES, registry=registry
        )
        self._model_seconds = Histogram(
            "model_call_duration_seconds",
            "How long models took.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._model_calls = Counter(
            "model_calls", "How model calls ended.", ["model", "outcome"], registry=registry
        )
        self._tokens = Counter(
            "model_tokens", "Tokens, as providers count.", ["model", "direction"], registry=registry
        )
        self._lag = Gauge(
            "projection_lag_events",
            "How far a read model is behind the log.",
            ["projection"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._failed = Gauge(
            "projection_failed",
            "1 while a read model has stopped before an event.",
            ["projection"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._failed_position = Gauge(
            "projection_failed_position",
            "Where the event is that a read model has stopped before; 0 for none.",
            ["projection"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._seal_lag = Gauge(
            "seal_lag_events",
            "How many events are not sealed yet.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._seal_failed = Gauge(
            "seal_failed",
            "1 while this process wants to seal and cannot.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._checkpoints = Counter(
            "seal_checkpoints", "Checkpoints that this process has signed.", registry=registry
        )
        self._approvals = Gauge(
            "approvals_pending",
            "Calls and plans that wait for a person.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._oldest_approval = Gauge(
            "approvals_oldest_seconds",
            "How long the oldest of them has waited.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )

    def exposition(self) -> tuple[bytes, str]:
        """Return the text Prometheus reads, and its content type."""
        return generate_latest(all_workers() or self._registry), CONTENT_TYPE_LATEST

    def stream_opened(self) -> None:
        """Count a stream that opened."""
        self._open_streams.inc()

    def stream_closed(self, seconds: float) -> None:
        """Count a stream that closed, after this long."""
        self._open_streams.dec()
        self._lifetime.observe(seconds)

    def turn_started(self) -> None:
        """Count a turn that began to run."""
        self._running.inc()

    def turn_ended(self, kind: str, outcome: str, seconds: float) -> None:
        """Count a turn that ended, and how."""
        self._running.dec()
        self._turns.labels(kind, outcome).inc()
        self._turn_seconds.labels(kind).observe(seconds)

    def committed(self, operation: str, status: str, seconds: float) -> None:
        """Count the end of a unit of work: `committed` or `rolled_back`."""
        self._transaction_seconds.labels(operation).observe(seconds)
        self._commits.labels(operation, status).inc()

    def projection_at(self, name: str, lag: int, is_failed: bool, failed_position: int | None) -> None:
        """Note how many events a read model is behind, whether it has stopped, and before which one."""
        self._lag.labels(name).set(lag)
        self._failed.labels(name).set(is_failed)
        self._failed_position.labels(name).set(failed_position or 0)

    def sealed_at(self, lag: int, is_failed: bool) -> None:
        """Note how many events are not sealed yet, and whether sealing has stopped."""
        self._seal_lag.set(lag)
        self._seal_failed.set(is_failed)

    def checkpoint_signed(self) -> None:
        """Count a checkpoint."""
        self._checkpoints.inc()

    def approvals_waiting(self, count: int, oldest: datetime | None) -> None:
        """Note how many calls and plans wait for a person, and since when the oldest does."""
        self._approvals.set(count)
        self._oldest_approval.set(max(0.0, time.time() - oldest.timestamp()) if oldest else 0)

    def append_conflict(self) -> None:
        """Count an append that met another writer."""
        self._conflicts.inc()

    def batch_appended(self, saves: int) -> None:
        """Count a batch of this many saves."""
        self._batch.observe(saves)

    def model_called(
        self, model: str, outcome: str, seconds: float, input_tokens: int, output_tokens: int
    ) -> None:
        """Count a model call and its tokens."""
        self._model_seconds.labels(model).observe(seconds)
        self._model_calls.labels(model, outcome).inc()
        self._tokens.labels(model, "input").inc(input_tokens)
        self._tokens.labels(model, "output").inc(output_tokens)
