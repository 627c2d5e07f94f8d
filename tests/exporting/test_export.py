"""`export`: what other tools read gives the same logits, and its page says what was measured."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import Tensor, nn

import dynat_ray
from dynat_ray import export
from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.models import Classifier, build_model, save_model
from dynat_ray.radius import format_radius
from dynat_ray.settings import dump_config

RESULTS = {
    "best": {
        "clean": {"accuracy": 90.0, "samples": 360, "interval": [86.5, 92.7]},
        "autoattack": {"accuracy": 61.25, "samples": 200, "interval": [54.3, 67.8]},
    },
    "seconds": 1234.5,
}
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def build(num_classes: int = 10, **kwargs: Any) -> Classifier:
    model = build_model(
        "preact_resnet10",
        num_classes=num_classes,
        channels=1,
        size=(8, 8),
        mean=[0.3],
        std=[0.4],
        kwargs={"base_width": 8, **kwargs},
    )
    model(torch.rand(8, 1, 8, 8))
    return model.eval()


@pytest.fixture
def run(small_config: RunConfig, tmp_path: Path) -> Path:
    """A run folder with a model, as far as export looks at it."""
    folder = tmp_path / "run"
    save_model(build(), folder / "model")
    (folder / "config.yaml").write_text(dump_config(small_config))
    (folder / "results.json").write_text(json.dumps(RESULTS))
    environment = {
        "versions": {"torch": "9.9"},
        "hardware": {"processor": "A <b>chip</b>", "cores": 2, "gpus": []},
        "command": "python -m dynat_ray.train --recipe digits",
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def test_a_hub_folder_is_read_by_timm_and_us_and_has_labels(run: Path, tmp_path: Path) -> None:
    folder = export.main([str(run), "--to", "hub-folder", "--out", str(tmp_path / "out")])
    expected = build_like(run)(IMAGES)
    torch.testing.assert_close(dynat_ray.load_model(folder)(IMAGES), expected)
    backbone = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    torch.testing.assert_close(backbone((IMAGES - 0.3) / 0.4), expected)
    assert backbone.pretrained_cfg["label_names"] == [str(digit) for digit in range(10)]


def build_like(run: Path) -> Classifier:
    return dynat_ray.load_model(run / "model")


def test_the_card_says_what_was_measured_and_how(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export.main([str(run), "--to", "hub-folder", "--out", str(out)])
    card = (out / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "timm"
    for words in (
        *("61.2", "54.3 to 67.8", "200", "90.0", "1,234 s", "2 cores"),
        f"Linf, eps {format_radius(0.1, 'Linf')}",
        *("dynat_ray.train --recipe digits", "torch 9.9", "no certificate", "import dynat_ray"),
    ):
        assert words in card, words
    assert "<b>" not in card


def test_a_model_without_its_run_has_a_card_that_says_so(tmp_path: Path) -> None:
    save_model(build(), tmp_path / "model")
    out = tmp_path / "out"
    export.main([str(tmp_path / "model"), "--to", "hub-folder", "--out", str(out)])
    assert "without the run that trained it" in (out / "README.md").read_text()


@pytest.mark.parametrize("kwargs", [{}, {"same_padding": True, "act_layer": "silu"}])
def test_a_program_takes_any_batch(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    model = build(**kwargs)
    save_model(model, tmp_path / "model")
    file = export.main(
        [str(tmp_path / "model"), "--to", "torch-export", "--out", str(tmp_path / "out")]
    )
    program = torch.export.load(file).module()
    torch.testing.assert_close(program(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kwargs", [{}, {"same_padding": True, "act_layer": "silu"}])
def test_onnx_gives_the_same_logits(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = build(**kwargs)
    save_model(model, tmp_path / "model")
    file = export.main([str(tmp_path / "model"), "--to", "onnx", "--out", str(tmp_path / "out")])
    (logits,) = runtime.InferenceSession(file).run(["logits"], {"images": IMAGES.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(IMAGES), rtol=1e-4, atol=1e-4)
    assert [each.name for each in Path(file).parent.iterdir()] == ["model.onnx"]


class Unsupported(nn.Module):
    """Its backbone asks the images what to do, which no graph can."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.pretrained_cfg = backbone.pretrained_cfg

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images if images.sum().item() > 0 else -images)


def test_a_network_that_is_no_graph_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    model.backbone = Unsupported(model.backbone)
    monkeypatch.setattr("dynat_ray.exporting.origin.load_model", lambda _: model)
    with pytest.raises(UserError, match=r"'preact_resnet10' can't be exported to torch\.export"):
        export.main([str(tmp_path), "--to", "torch-export", "--out", str(tmp_path / "out")])


def test_a_graph_that_gives_other_logits_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(build(), tmp_path / "model")
    monkeypatch.setattr("dynat_ray.exporting.graphs._TOLERANCE", -1.0)
    with pytest.raises(UserError, match="other logits"):
        export.main(
            [str(tmp_path / "model"), "--to", "torch-export", "--out", str(tmp_path / "out")]
        )
    assert list((tmp_path / "out").iterdir()) == []


class Hub(BaseHTTPRequestHandler):
    """The few endpoints of the hub that a push asks for."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        self.server.asked.append((self.path, self.headers["Authorization"], body))  # type: ignore[attr-defined]
        answer: dict[str, Any] = {}
        address = f"http://{self.headers['Host']}/owner/name"
        if self.path.endswith("/repos/create"):
            answer = {"url": address, "id": "owner/name"}
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            answer["files"] = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in files
            ]
        elif "/commit/" in self.path:
            answer = {"commitOid": "1" * 40, "commitUrl": f"{address}/commit/{'1' * 40}"}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, str]]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        yield server.asked  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


def test_a_push_sends_the_folder(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    arguments = [str(run), "--to", "hub-folder", "--out", str(tmp_path / "out")]
    with hub(monkeypatch) as asked:
        address = export.main([*arguments, "--push", "owner/name"])
    assert str(address).endswith("/owner/name")
    assert {token for _, token, _ in asked} == {"Bearer hf_secret"}
    (commit,) = (body for path, _, body in asked if "/commit/" in path)
    sent = {json.loads(line)["value"].get("path") for line in commit.splitlines()} - {None}
    assert sent == {"README.md", "config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "hub-folder", "--push", "owner/name"], "token"),
        (["--to", "onnx", "--push", "owner/name"], "--push is for"),
    ],
)
def test_a_push_that_cannot_be_is_refused_before_anything_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match=words):
        export.main([str(run), "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()
