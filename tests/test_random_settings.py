"""Random settings: a complete config, or one sentence that names what is wrong."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.method_settings import method_settings
from dynat_ray.settings import (
    Settings,
    build_config,
    describe_settings,
    dump_config,
    flatten,
    read_recipe,
    read_settings,
    recipe_names,
    split_arguments,
)

METHODS = sorted(method_settings())
KEYS = sorted(
    {each.key for name in METHODS for group in describe_settings(name).values() for each in group}
)
VALUES = st.one_of(
    st.sampled_from(
        ("", "null", "true", "auto", "0", "1", "-1", "8/255", "1/0", "nan", "inf", "1e400", "0.5")
    ),
    st.sampled_from(
        ("sgd", "Linf", "L2", "uniform", "[crop, flip]", "{a: 1}", "{a: 1, a: 2}", "[")
    ),
    st.sampled_from(METHODS),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=8),
)
ARGUMENTS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from(KEYS), st.sampled_from(("train.epoch", "x.y", "a."))), VALUES
    ),
    max_size=4,
)


def outcome(layers: list[Settings]) -> RunConfig | None:
    """Returns the config; checks the sentence if there is none."""
    try:
        return build_config(layers)
    except UserError as error:
        sentence = str(error)
    assert sentence.strip()
    return None


def is_complete(config: RunConfig) -> bool:
    """Returns whether a config is what its own text says, and no key is missing."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text(dump_config(config), encoding="utf-8")
        again = build_config([read_settings(file)])
    sections = {each.name for each in fields(RunConfig)}
    return again == config and asdict(config).keys() == sections


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(recipe_names()), st.sampled_from(METHODS), ARGUMENTS)
def test_settings_make_a_complete_config_or_a_sentence(
    recipe: str, method: str, arguments: list[tuple[str, str]]
) -> None:
    given, rest = split_arguments([f"--{key}={value}" for key, value in arguments])
    assert rest == []
    config = outcome([read_recipe(recipe), {"method.name": method}, given])
    if config is None:
        return
    assert is_complete(config)
    flat = flatten(asdict(config))
    assert {key for key, _ in arguments} <= {*flat, "model.kwargs"} | {
        key for key in given if key.startswith("model.kwargs.")
    }
