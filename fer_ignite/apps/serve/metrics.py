"""Counters of the HTTP service in Prometheus's text format."""

import threading
from collections import Counter

__all__ = ["ServiceMetrics"]


class ServiceMetrics:
    """Requests by status, pictures, faces and seconds since the start."""

    def __init__(self) -> None:
        self._requests: Counter[int] = Counter()
        self._pictures = self._faces = 0
        self._seconds = 0.0
        self._lock = threading.Lock()

    def count(
        self, status: int, *, pictures: int = 0, faces: int = 0, seconds: float = 0.0
    ) -> None:
        """Notes one request to /predict."""
        with self._lock:
            self._requests[status] += 1
            self._pictures += pictures
            self._faces += faces
            self._seconds += seconds

    def text(self) -> str:
        """Format: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4."""
        with self._lock:
            lines = [
                "# HELP fer_ignite_requests_total Requests to /predict by HTTP status.",
                "# TYPE fer_ignite_requests_total counter",
                *(
                    f'fer_ignite_requests_total{{status="{status}"}} {count}'
                    for status, count in sorted(self._requests.items())
                ),
            ]
            for name, text, value in (
                ("pictures", "Pictures that were answered.", self._pictures),
                ("faces", "Faces that were found in them.", self._faces),
                ("predict_seconds", "Seconds from request to answer, summed.", self._seconds),
            ):
                lines += [
                    f"# HELP fer_ignite_{name}_total {text}",
                    f"# TYPE fer_ignite_{name}_total counter",
                    f"fer_ignite_{name}_total {value}",
                ]
        return "\n".join(lines) + "\n"
