"""Endpoints on this machine: answers, silence, refusals and nonsense."""

from __future__ import annotations

import gzip
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from carbide.models import load_model, pack, unpack
from carbide.types import Access, Dataset, InputError

Answer = Callable[[dict[str, Any], dict[str, str], int], tuple[int, bytes, dict[str, str]]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is what some of these tests are about."""


@contextmanager
def endpoint(answer: Answer) -> Iterator[tuple[str, list[int]]]:
    """An address on this machine whose POSTs are answered by a function, and the number of calls so far in a list."""
    calls = [0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls[0] += 1
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, said, headers = answer(body, dict(self.headers.items()), calls[0])
            self.send_response(status)
            for key, value in {"Content-Length": str(len(said)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/predict", calls
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def probabilities(body: dict[str, Any], headers: dict[str, str], call: int) -> tuple[int, bytes, dict[str, str]]:
    p = 1 / (1 + np.exp(-np.array([[np.nan if v is None else v for v in row] for row in body["inputs"]], float)[:, 0]))
    return 200, json.dumps({"probabilities": np.stack([1 - p, p], 1).tolist()}).encode(), {}


def http(url: str, data: Dataset, **options: Any) -> Any:
    return load_model({"http": {"url": url, "pause": 0.01, **options}}, space=data.space, classes=data.classes)


def test_probabilities_and_counted_queries(data: Dataset) -> None:
    with endpoint(probabilities) as (url, calls):
        model = http(url, data, batch=50)
        before = model.queries
        p = 1 / (1 + np.exp(-data.x[:, 0]))
        assert np.abs(model.predict(data.x) - np.stack([1 - p, p], 1)).max() < 1e-12
        assert model.queries - before == len(data)
        assert calls[0] == 1 + 3
        assert model.answers == "probabilities"
        assert model.at(0.2).queries == model.queries
        assert load_model(url, space=data.space, classes=2).predict(data.x[:2]).shape == (2, 2)
        assert unpack(pack(model)).digest() == model.digest()
        assert pickle.loads(pickle.dumps(model)).predict(data.x[:2]).shape == (2, 2)


def test_logits_and_labels(data: Dataset) -> None:
    def logits(body: dict[str, Any], *_: Any) -> tuple[int, bytes, dict[str, str]]:
        return 200, json.dumps({"logits": [[0.0, row[0]] for row in body["inputs"]]}).encode(), {}

    def labels(body: dict[str, Any], *_: Any) -> tuple[int, bytes, dict[str, str]]:
        return 200, json.dumps({"labels": ["yes" if row[0] > 0.5 else "no" for row in body["inputs"]]}).encode(), {}

    with endpoint(logits) as (url, _):
        p = 1 / (1 + np.exp(-data.x[:, 0]))
        assert np.abs(http(url, data).predict(data.x)[:, 1] - p).max() < 1e-12
    with endpoint(labels) as (url, _):
        model = http(url, data, labels=["no", "yes"])
        assert model.access == Access.LABELS
        assert np.array_equal(model.predict(data.x)[:, 1], data.x[:, 0] > 0.5)


def test_a_silent_endpoint_names_address_and_seconds(data: Dataset) -> None:
    def silent(*_: Any) -> tuple[int, bytes, dict[str, str]]:
        time.sleep(1.0)
        return 200, b"{}", {}

    with endpoint(silent) as (url, _), pytest.raises(InputError, match=r"127\.0\.0\.1.* did not answer within 0\.2 seconds"):
        http(url, data, timeout=0.2)


def test_a_dripping_endpoint_times_out_too(data: Dataset) -> None:
    class Drips(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            for _ in range(40):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)

        def log_message(self, *args: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Drips)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    start = time.monotonic()
    try:
        with pytest.raises(InputError, match="did not answer within"):
            http(f"http://127.0.0.1:{server.server_address[1]}", data, timeout=0.3)
    finally:
        server.shutdown()
        server.server_close()
    assert time.monotonic() - start < 1.5


def test_broken_endpoints_are_tried_again(data: Dataset) -> None:
    def third_time(body: dict[str, Any], headers: dict[str, str], call: int) -> tuple[int, bytes, dict[str, str]]:
        return probabilities(body, headers, call) if call % 3 == 0 else (503, b"busy", {})

    def never(*_: Any) -> tuple[int, bytes, dict[str, str]]:
        return 500, b"", {}

    with endpoint(third_time) as (url, calls):
        assert http(url, data, retries=2).predict(data.x[:4]).shape == (4, 2)
        assert calls[0] == 6
    with endpoint(never) as (url, calls):
        with pytest.raises(InputError, match="answers with status 500, 3 times"):
            http(url, data, retries=2)
        assert calls[0] == 3
    with pytest.raises(InputError, match=r"cannot be reached .*2 times"):
        http(url, data, retries=1)


@pytest.mark.parametrize(("status", "body", "match"), [
    (404, b"no such page", "status 404"),
    (302, b"", "status 302.*call the final address"),
    (401, b"who are you", "status 401.*token"),
    (200, b"<html>", "is not JSON"),
    (200, b"[1, 2]", "answers a JSON list"),
    (200, b"{}", "answers nothing"),
    (200, b'{"scores": []}', "answers 'scores'"),
    (200, b'{"probabilities": [[0.5, 0.5]]}', r"shape \(1, 2\) for 3 rows"),
    (200, b'{"probabilities": [[0.5, 0.4], [0.5, 0.5], [0.5, 0.5]]}', "no distribution where probabilities are declared .row 0 sums to 0.9"),
    (200, b'{"probabilities": [[0.5, 1.4], [0.5, 0.5], [0.5, 0.5]]}', "returns logits where probabilities are declared"),
    (200, b'{"probabilities": [[NaN, 0.4], [0.5, 0.5], [0.5, 0.5]]}', "NaN or infinity"),
    (200, b'{"probabilities": [[0.5], [0.5, 0.5], [0.5, 0.5]]}', "no array"),
    (200, b'{"probabilities": "high"}', "not numbers"),
    (200, b'{"probabilities": null}', "not numbers"),
    (200, b'{"labels": [0, 1, 5]}', "the label 5"),
    (200, b"[" * 100000, "not JSON|more than"),
    (200, b'{"probabilities": [' + b"0.1," * 100000 + b"0.1]}", "answers more than"),
])  # fmt: skip
def test_nonsense_is_one_sentence(status: int, body: bytes, match: str, data: Dataset) -> None:
    headers = {"Location": "http://127.0.0.1:9/elsewhere"} if status == 302 else {}
    with endpoint(lambda *_: (status, body, headers)) as (url, calls), pytest.raises(InputError, match=match) as caught:
        http(url, data).predict(data.x[:3])
    assert "\n" not in str(caught.value)
    assert calls[0] <= 2


def test_a_packed_flood_is_cut_off(data: Dataset) -> None:
    flood = gzip.compress(b"0" * (1 << 26))
    with endpoint(lambda *_: (200, flood, {"Content-Encoding": "gzip"})) as (url, _), pytest.raises(InputError, match="answers more than"):
        http(url, data)


def test_tokens_come_from_the_environment_and_stay_there(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def guarded(body: dict[str, Any], headers: dict[str, str], call: int) -> tuple[int, bytes, dict[str, str]]:
        seen.append(headers.get("Authorization", headers.get("X-Key", "")))
        return probabilities(body, headers, call)

    with endpoint(guarded) as (url, _):
        with pytest.raises(InputError, match="CARBIDE_TEST_TOKEN is not set"):
            http(url, data, token_variable="CARBIDE_TEST_TOKEN")
        monkeypatch.setenv("CARBIDE_TEST_TOKEN", "hush-hush")
        model = http(url, data, token_variable="CARBIDE_TEST_TOKEN")
        assert seen[-1] == "Bearer hush-hush"
        assert http(url, data, token_variable="CARBIDE_TEST_TOKEN", token_header="X-Key").answers == "probabilities"
        assert seen[-1] == "hush-hush"
        assert "hush" not in repr(model) + str(pack(model)) + model.digest()
        monkeypatch.setenv("CARBIDE_TEST_TOKEN", "two\nlines")
        with pytest.raises(InputError, match="not one printable line") as caught:
            model.predict(data.x[:1])
        assert "two" not in str(caught.value)


def test_missing_values_travel_as_null(data: Dataset) -> None:
    got: list[Any] = []

    def listens(body: dict[str, Any], headers: dict[str, str], call: int) -> tuple[int, bytes, dict[str, str]]:
        got.append(body["inputs"])
        return 200, json.dumps({"probabilities": [[0.5, 0.5]] * len(body["inputs"])}).encode(), {}

    with endpoint(listens) as (url, _):
        x = data.x[:2].copy()
        x[1, 2] = np.nan
        http(url, data).predict(x)
    assert got[-1][1][2] is None
    assert got[-1][0] == x[0].tolist()


@pytest.mark.parametrize(("options", "match"), [
    ({"url": "ftp://host/x"}, "begins with http"), ({"url": "model"}, "begins with http"), ({"url": "http://"}, "begins with http"),
    ({"url": "http://user:pass@host/"}, "holds a password"), ({}, "names no address"), ({"url": "http://h/", "timeout": -1}, "timeout of"),
    ({"url": "http://h/", "timeout": "long"}, "timeout is 'long'"), ({"url": "http://h/", "batch": 0}, "batch of"),
    ({"url": "http://h/", "answers": "maybe"}, "answers is 'maybe'"), ({"url": "http://h/", "verb": "GET"}, "option 'verb' is not known"),
])  # fmt: skip
def test_wrong_options_are_refused_before_any_call(options: dict[str, Any], match: str, data: Dataset) -> None:
    with pytest.raises(InputError, match=match):
        load_model({"http": options}, space=data.space, classes=2)


def test_stored_endpoints_are_called_only_if_named_here(data: Dataset) -> None:
    with endpoint(probabilities) as (url, calls):
        packed = pack(http(url, data))
        packed["state"]["url"] = url.replace("predict", "other")
        before = calls[0]
        with pytest.raises(InputError, match="nothing in this process has named"):
            unpack(packed)
        assert calls[0] == before
