"""Models of the hub, from a server on loopback that answers as the hub does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from dynat_ray.config import RunConfig
from dynat_ray.distributed.training_run import resolve
from dynat_ray.errors import UserError
from dynat_ray.evaluation.subject import load_subject
from dynat_ray.models import build_model, initialise_from, save_model
from dynat_ray.models.classifier import Classifier
from dynat_ray.settings import override

COMMIT = "1" * 40


def build() -> Classifier:
    return build_model(
        "preact_resnet10",
        num_classes=10,
        channels=1,
        size=(8, 8),
        mean=[0.5],
        std=[0.5],
        kwargs={"base_width": 8},
    ).eval()


class Hub(BaseHTTPRequestHandler):
    """`/OWNER/NAME/resolve/REVISION/FILE`, from the server's `folder/OWNER/NAME`."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        if content := self._answer():
            self.wfile.write(content)

    def _answer(self) -> bytes:
        owner, name, _, revision, file = self.path.lstrip("/").split("/")
        model: Path = self.server.folder / owner / name  # type: ignore[attr-defined]
        error = (
            "RepoNotFound"
            if not model.is_dir()
            else "RevisionNotFound"
            if revision not in ("main", COMMIT)
            else "EntryNotFound"
            if not (model / file).is_file()
            else ""
        )
        content = b"" if error else (model / file).read_bytes()
        self.send_response(404 if error else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Error-Code" if error else "ETag", error or f'"{file}"')
        self.end_headers()
        return content

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder = tmp_path / "hub"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(hub: ThreadingHTTPServer, tmp_path: Path) -> Classifier:
    """What the hub has as `owner/name`."""
    made = build()
    save_model(made, tmp_path / "hub" / "owner" / "name")
    return made


def test_a_model_is_downloaded_evaluated_and_started_from(
    model: Classifier,
    small_config: RunConfig,
    hub: ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    name = "hf-hub:owner/name"
    torch.testing.assert_close(load_subject(f"{name}@{COMMIT}").model(images), model(images))
    start = {"model.name": "auto", "model.kwargs": {}, "model.init_from": name}
    config, _, _ = resolve(override(small_config, start))
    assert (config.model.name, config.model.init_from) == ("preact_resnet10", name)
    assert config.model.kwargs == {"base_width": 8}
    hub.shutdown()
    # From the copy. The library waits ten seconds for the answer on each file.
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    begun = build()
    initialise_from(begun, name)
    torch.testing.assert_close(begun(images), model(images))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf-hub:nobody/name", "has no such model"),
        ("hf-hub:owner/name@other", "no such revision"),
        ("hf-hub:owner/empty", "it has no config.json"),
        ("hf-hub:owner/unsafe", "it has no model.safetensors.*dynat_ray.convert"),
        ("hf-hub:owner", "hf-hub:OWNER/NAME"),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    model: Classifier, hub: ThreadingHTTPServer, tmp_path: Path, name: str, words: str
) -> None:
    for each in ("empty", "unsafe"):
        (tmp_path / "hub" / "owner" / each).mkdir()
    (tmp_path / "hub" / "owner" / "unsafe" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=words):
        load_subject(name)


def test_off_line_says_so(
    model: Classifier, hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and it was not downloaded"):
        load_subject("hf-hub:owner/name")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    # Five further tries of the library, 23 seconds in all.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with pytest.raises(UserError, match="the hub does not answer, and it was not downloaded"):
        load_subject("hf-hub:owner/name")
