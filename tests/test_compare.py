"""The comparison command: what it accepts, and what it makes of methods that need a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dynat_ray.compare import main, read_variants
from dynat_ray.errors import UserError
from dynat_ray.method_settings import method_settings
from dynat_ray.settings import build_config
from dynat_ray.storage import places


def test_variants_are_methods_with_settings() -> None:
    found = read_variants("trades, dynat:weights=false:beta=3,trades")
    assert [each.label for each in found] == ["trades", "dynat:weights=false:beta=3"]
    assert found[1].settings == {
        "method.name": "dynat",
        "method.weights": "false",
        "method.beta": "3",
    }


@pytest.mark.parametrize("name", [n for n, each in method_settings().items() if each.ablation])
def test_an_ablation_is_the_method_and_each_part_without(name: str) -> None:
    labels = [each.label for each in read_variants(f"{name}:ablation")]
    # Deep Defense needs a standard model, whose run comes first.
    parts = method_settings()[name].ablation
    assert labels[-len(parts) - 1 :] == [name, *(f"{name}:{part}" for part in parts)]
    for variant in read_variants(f"{name}:ablation"):
        # Every setting exists and may have this value.
        assert build_config([variant.settings]).method.name in (name, "standard")


def test_all_are_all_and_the_standard_model_comes_first() -> None:
    labels = [each.label for each in read_variants("all")]
    assert sorted(labels) == sorted(method_settings())
    assert labels[0] == "standard"
    assert [each.label for each in read_variants("trades,hat")] == ["standard", "trades", "hat"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "dinat"], "dynat"),
        (["--methods", "dinat:ablation"], "dynat"),
        (["--methods", "trades:ablation"], "no parts"),
        (["--methods", "dynat:weights"], "KEY=VALUE"),
        (["--methods", "dynat:weihgts=false"], "method.weights"),
        (["--methods", "trades", "--method.beta", "3"], "NAME:beta"),
        (["--seeds", "0"], "--seeds"),
        (["--recipe", "digit"], "digits"),
        (["--compute", "100"], "--equal compute"),
        (["--equal", "epochs", "--compute", "100"], "--equal compute"),
        (["--equal", "compute", "--compute", "-1"], "--compute is '-1'"),
        (["--equal", "compute", "--compute", "9", "--train.compute", "9"], "both given"),
        (["--equal", "epochs", "--train.compute", "100"], "exclude each other"),
        (["--train.epochs", "3", "--train.compute", "100"], "train.epochs and train.compute"),
        (["--equal", "time"], "--equal"),
        (["--methods", "trades", "--eval.beside", "true"], "eval.beside"),
    ],
)
def test_mistakes_are_said_at_once(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        main([*arguments, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_store_can_not_hand_on_the_standard_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @contextmanager
    def mirrored_folder(parent: str, name: str) -> Iterator[Path]:
        yield tmp_path / name

    monkeypatch.setattr(places, "mirrored_folder", mirrored_folder)
    with pytest.raises(UserError, match=r"deep_defense and hat start from .*--out"):
        main(["--methods", "trades,deep_defense,hat", "--out", "s3://bucket/runs"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("recipe", "methods", "said"),
    [
        ("mnist-lenet", "dynat,trades", "note: method.beta=1.0 holds for dynat alone; trades has"),
        ("mnist-lenet", "dynat,dynat:beta=5", ""),
        ("digits", "dynat,trades", ""),
    ],
)
def test_whose_a_recipes_settings_are_is_said(
    capsys: pytest.CaptureFixture[str], recipe: str, methods: str, said: str
) -> None:
    with pytest.raises(UserError, match="no-such-attack"):
        main(["--recipe", recipe, "--methods", methods, "--eval.attacks", "[no-such-attack]"])
    errors = capsys.readouterr().err
    assert (said in errors) if said else (errors == "")
