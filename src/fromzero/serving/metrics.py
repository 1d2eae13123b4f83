"""What Prometheus reads: vLLM's names where the same thing is meant, so that its dashboards work.

Gauges and counters of the engine are read from it when somebody asks; only what belongs to single requests is noted.
"""

from collections.abc import Iterable
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fromzero.inference.engine import Engine
from fromzero.inference.request import Output, Request

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TOKENS = tuple(2**power for power in range(18))
COUNTS = (1, 2, 4, 8, 16)
REASONS = {"stop": "stop", "length": "length", "context": "length", "cancelled": "abort", "error": "error"}
"""Why an answer ended -> what clients of OpenAI are told."""


class Metrics:
    """Everything that is counted."""

    def __init__(self, model: str) -> None:
        self.registry, self._model = CollectorRegistry(), model
        self._last: dict[tuple[str, int], float] = {}
        labels = {
            "time_to_first_token_seconds": SECONDS,
            "inter_token_latency_seconds": SECONDS,
            "e2e_request_latency_seconds": SECONDS,
            "request_queue_time_seconds": SECONDS,
            "request_prefill_time_seconds": SECONDS,
            "request_decode_time_seconds": SECONDS,
            "request_inference_time_seconds": SECONDS,
            "request_prompt_tokens": TOKENS,
            "request_generation_tokens": TOKENS,
            "request_params_n": COUNTS,
            "request_params_max_tokens": TOKENS,
        }
        self._histograms = {
            name: Histogram(
                f"vllm:{name}", name.replace("_", " "), ["model_name"], buckets=buckets, registry=self.registry
            ).labels(model)
            for name, buckets in labels.items()
        }
        names = ("handler", "method", "status")
        self._requests = Counter("http_requests", "requests answered", names, registry=self.registry)
        self._durations = Histogram(
            "http_request_duration_seconds", "until the last byte", names[:2], buckets=SECONDS, registry=self.registry
        )

    def watch(self, engine: Engine) -> None:
        """Count what this engine does."""
        self.registry.register(_EngineCollector(engine, self._model))

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        return generate_latest(self.registry)

    def answered(self, handler: str, method: str, status: int, seconds: float) -> None:
        """A request of HTTP is done."""
        self._requests.labels(handler, method, str(status)).inc()
        self._durations.labels(handler, method).observe(seconds)

    def note(self, request: Request, output: Output) -> None:
        """An output of the engine."""
        key, now, see = (request.id, output.index), monotonic(), self._histograms
        if output.reason is None:
            if key in self._last:
                see["inter_token_latency_seconds"].observe(now - self._last[key])
            self._last[key] = now
            return
        self._last.pop(key, None)
        if output.timing is None:
            return
        timing = output.timing
        see["time_to_first_token_seconds"].observe(timing.first - timing.queued)
        see["e2e_request_latency_seconds"].observe(timing.last - timing.queued)
        see["request_queue_time_seconds"].observe(timing.started - timing.queued)
        see["request_prefill_time_seconds"].observe(timing.first - timing.started)
        see["request_decode_time_seconds"].observe(timing.last - timing.first)
        see["request_inference_time_seconds"].observe(timing.last - timing.started)

    def finished(self, request: Request, tokens: int) -> None:
        """All answers to a prompt are there, with so many tokens in all."""
        self._histograms["request_prompt_tokens"].observe(len(request.prompt))
        self._histograms["request_generation_tokens"].observe(tokens)
        self._histograms["request_params_n"].observe(request.sampling.n)
        self._histograms["request_params_max_tokens"].observe(request.sampling.max_tokens)

    def forget(self, request: Request) -> None:
        """Nobody listens to it any more."""
        for index in range(request.sampling.n):
            self._last.pop((request.id, index), None)


class _EngineCollector:
    """An engine's own counts, at the moment that they are read."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine, self._model = engine, model

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        stats, config = self._engine.stats, self._engine.config
        gauges = {
            "num_requests_running": stats.running,
            "num_requests_waiting": stats.waiting,
            "kv_cache_usage_perc": stats.pages_held / stats.pages,
        }
        counters = {
            "prefix_cache_queries": stats.lookups,
            "prefix_cache_hits": stats.hits,
            "num_preemptions": stats.preemptions,
            "prompt_tokens": stats.prompt_tokens,
            "generation_tokens": stats.generated_tokens,
            "engine_steps": stats.steps,
            "spec_decode_num_draft_tokens": stats.drafted,
            "spec_decode_num_accepted_tokens": stats.accepted,
        }
        for kind, values in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for name, value in values.items():
                family = kind(f"vllm:{name}", name.replace("_", " "), labels=["model_name"])
                family.add_metric([self._model], value)
                yield family
        ended = CounterMetricFamily("vllm:request_success", "answers by end", labels=["model_name", "finished_reason"])
        for reason in dict.fromkeys(REASONS.values()):
            count = sum(count for own, count in stats.finished.items() if REASONS[own] == reason)
            ended.add_metric([self._model, reason], count)
        yield ended
        info = GaugeMetricFamily("vllm:cache_config_info", "cache", labels=["block_size", "num_gpu_blocks"])
        info.add_metric([str(config.page_tokens), str(stats.pages)], 1)
        yield info
