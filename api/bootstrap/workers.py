"""What a parent shares with its workers: their metrics."""

from infrastructure.shared_metrics import SHARED_METRICS, forget_worker, new_metrics_folder, shared_metrics

__all__ = ["SHARED_METRICS", "forget_worker", "new_metrics_folder", "shared_metrics"]
