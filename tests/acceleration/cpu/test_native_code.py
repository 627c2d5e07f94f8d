"""C++ code is compiled once for each compiler and processor, and goes without where it can't be."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynat_ray.acceleration import cpu
from dynat_ray.acceleration.cpu import native_code
from dynat_ray.data.cache_folder import cache_folder
from tests.processes import run_python, start_python

pytestmark = pytest.mark.skipif(native_code.compiler() is None, reason="there is no C++ compiler")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native_code.load.cache_clear()
    yield tmp_path / "cache" / "dynat-ray" / "native"
    native_code.load.cache_clear()


_ANSWER = """
import pathlib, sys
from dynat_ray.acceleration.cpu import native_code
print(native_code.load(pathlib.Path(sys.argv[1])).answer())
"""


def _source(folder: Path, answer: int) -> Path:
    path = folder / "answer.cpp"
    path.write_text(f'extern "C" int answer() {{ return {answer}; }}\n')
    return path


def test_code_is_compiled_once_and_again_when_it_changes(tmp_path: Path, own_cache: Path) -> None:
    for _ in range(2):
        library = native_code.load(_source(tmp_path, 42))
        assert library is not None
        assert library.answer() == 42
        native_code.load.cache_clear()
    assert len(list(own_cache.iterdir())) == 1
    changed = native_code.load(_source(tmp_path, 43))
    assert changed is not None
    assert changed.answer() == 43
    assert len(list(own_cache.iterdir())) == 2


def test_another_processor_has_a_file_of_its_own(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = native_code.compiler()
    for settings in ("", " -DANOTHER_PROCESSOR"):
        monkeypatch.setenv("CXX", f"{compiler}{settings}")
        assert native_code.load(_source(tmp_path, 42)) is not None
        native_code.load.cache_clear()
    assert len(list(own_cache.iterdir())) == 2


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, on a machine whose cache can't be written."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_where_the_cache_cannot_be_written_it_is_done_without(
    tmp_path: Path, temporary: Path
) -> None:
    library = native_code.load(_source(tmp_path, 42))
    assert library is not None
    assert library.answer() == 42


@pytest.fixture(scope="module")
def forking() -> None:
    """Has the server that forks put its own temporary files where they always are."""
    run_python("-c", "")


def test_processes_without_a_home_share_one_folder(
    forking: None, tmp_path: Path, temporary: Path
) -> None:
    source = _source(tmp_path, 42)
    said = [tmp_path / "one", tmp_path / "other"]
    running = [
        start_python("-c", _ANSWER, str(source), said=(file, tmp_path / "errors")) for file in said
    ]
    for process in running:
        process.join(300)
    assert [file.read_text() for file in said] == ["42\n"] * 2
    library = native_code.load(source)
    assert library is not None
    assert library.answer() == 42
    (folder,) = temporary.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list(folder.iterdir())) == 1


def test_of_processes_that_need_the_same_one_compiles_it(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"
    lines = ("#!/bin/sh", f'echo "$@" >> "{tmp_path}/asked"', "sleep 1", 'exec c++ "$@"')
    compiler.write_text("\n".join(lines))
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    said = [tmp_path / "one", tmp_path / "other"]
    source = str(_source(tmp_path, 42))
    running = [start_python("-c", _ANSWER, source, said=(file, tmp_path / "e")) for file in said]
    for process in running:
        process.join(300)
    assert [file.read_text() for file in said] == ["42\n"] * 2
    asked = (tmp_path / "asked").read_text().splitlines()
    assert sum(" -o " in arguments for arguments in asked) == 1
    assert len(list(own_cache.iterdir())) == 1


def test_a_process_that_stands_still_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_code, "_SECONDS_TO_WAIT", 0.3)
    with native_code._alone(native_code.cache_folder()):
        assert native_code._compiled(_source(tmp_path, 42)).is_file()


@pytest.mark.parametrize("planted", ["open to others", "a link"])
def test_code_that_others_could_have_put_there_is_not_loaded(
    planted: str, tmp_path: Path, temporary: Path
) -> None:
    place = temporary / f"dynat-ray-native-{os.getuid()}"
    if planted == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.mkdir()
        place.chmod(0o777)
    with pytest.warns(UserWarning, match="this user alone"):
        assert native_code.load(_source(tmp_path, 42)) is None


def test_a_damaged_library_is_made_again(tmp_path: Path, own_cache: Path) -> None:
    source = _source(tmp_path, 42)
    file = native_code._compiled(source)
    whole = file.read_bytes()
    for damaged in (b"", whole[:4096], whole[:-1], whole[:2000] + b"?" + whole[2001:]):
        file.write_bytes(damaged)
        assert native_code._compiled(source) == file
        assert [each.name for each in own_cache.iterdir()] == [file.name]
        assert file.stat().st_size == len(whole)
    # In a process of its own, which the system would end.
    file.write_bytes(whole[:4096])
    done = run_python("-c", _ANSWER, str(source))
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def test_what_was_cut_is_not_even_opened(tmp_path: Path, own_cache: Path) -> None:
    native_code.load(_source(tmp_path, 42))
    (file,) = own_cache.iterdir()
    assert native_code._is_intact(file)
    whole = file.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 50)):
        file.write_bytes(whole[:size])
        assert not native_code._is_intact(file)


@pytest.mark.parametrize("how", ["a link", "open to others", "somebody else's"])
def test_a_library_that_others_could_have_written_is_made_again(
    how: str, tmp_path: Path, own_cache: Path
) -> None:
    native_code.load(_source(tmp_path, 42))
    (ours,) = own_cache.iterdir()
    native_code.load.cache_clear()
    native_code.load(_source(tmp_path, 13))
    (theirs,) = set(own_cache.iterdir()) - {ours}
    native_code.load.cache_clear()
    # A whole one, that gives another answer.
    code = theirs.read_bytes()
    ours.unlink()
    if how == "a link":
        (tmp_path / "elsewhere").write_bytes(code)
        (tmp_path / "elsewhere").chmod(0o600)
        ours.symlink_to(tmp_path / "elsewhere")
    else:
        ours.write_bytes(code)
        ours.chmod(0o666 if how == "open to others" else 0o600)
    if how == "somebody else's":
        _give_away(ours)
    library = native_code.load(_source(tmp_path, 42))
    assert library is not None
    assert library.answer() == 42


def _give_away(path: Path) -> None:
    try:
        os.chown(path, 12345, -1)
    except PermissionError:
        pytest.skip("only root gives files away")


@pytest.mark.parametrize("how", ["open to all", "open to its group", "somebody else's", "a link"])
@pytest.mark.parametrize("level", ["native", "dynat-ray"])
def test_no_folder_on_the_way_may_be_open_to_others(
    level: str, how: str, tmp_path: Path, own_cache: Path
) -> None:
    own_cache.mkdir(parents=True, mode=0o700)
    own_cache.parent.chmod(0o755)
    folder = own_cache if level == "native" else own_cache.parent
    if how == "a link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    elif how == "somebody else's":
        _give_away(folder)
    else:
        folder.chmod(0o777 if how == "open to all" else 0o775)
    with pytest.warns(UserWarning, match=f"{folder} is not a folder that this user alone"):
        assert native_code.load(_source(tmp_path, 42)) is None
    assert list(own_cache.iterdir()) == []


@pytest.mark.parametrize("level", [1, 2])
def test_no_folder_above_may_let_others_rename(level: int, tmp_path: Path, own_cache: Path) -> None:
    own_cache.mkdir(parents=True, mode=0o700)
    own_cache.parent.chmod(0o700)
    above = own_cache.parents[level]
    # As /tmp: everybody may write, and rename what is theirs.
    above.chmod(0o1777)
    assert native_code.cache_folder() == own_cache
    above.chmod(0o777)
    with pytest.warns(UserWarning, match=f"{above} is not a folder that this user alone"):
        assert native_code.load(_source(tmp_path, 42)) is None
    above.chmod(0o700)


def test_a_group_that_may_write_everywhere_may_not_here(tmp_path: Path, own_cache: Path) -> None:
    before = os.umask(0o002)
    try:
        cache_folder()  # as data are prepared, perhaps before code is compiled
        assert native_code.load(_source(tmp_path, 42)) is not None
    finally:
        os.umask(before)
    native_code.load.cache_clear()
    made = [file.stat().st_mtime_ns for file in own_cache.iterdir()]
    assert native_code.load(_source(tmp_path, 42)) is not None
    assert [file.stat().st_mtime_ns for file in own_cache.iterdir()] == made


@pytest.mark.parametrize("command", ["false", "g++ 'unbalanced"])
def test_a_compiler_that_says_nothing_is_named(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", command)
    with pytest.warns(UserWarning, match=r"on this CPU: .*(false|quotation)"):
        assert native_code.load(_source(tmp_path, 42)) is None


def test_without_a_compiler_there_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(UserWarning, match=r"answer\.cpp .* no C\+\+ compiler"):
        assert native_code.load(_source(tmp_path, 42)) is None


def test_what_the_compiler_says_is_in_the_warning(tmp_path: Path) -> None:
    source = tmp_path / "wrong.cpp"
    source.write_text("int answer() { return nothing; }\n")
    with pytest.warns(UserWarning, match="nothing"):
        assert native_code.load(source) is None


def test_what_is_missing_is_known_without_compiling(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if native_code._unsuitable_processor():
        pytest.skip("a processor that the code is not made for")
    assert cpu.available()
    assert not own_cache.exists()
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not cpu.available()
    assert "no C++ compiler" in str(cpu.why_unavailable())


def test_why_a_kernel_could_not_be_compiled_is_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if native_code._unsuitable_processor():
        pytest.skip("a processor that the code is not made for")
    monkeypatch.setattr(native_code, "_FOLDER", tmp_path)
    monkeypatch.setattr(native_code, "_failures", {})
    (tmp_path / "wrong.cpp").write_text("int answer() { return nothing; }\n")
    with pytest.warns(UserWarning, match="nothing"):
        assert native_code.library("wrong") is None
    assert "nothing" in str(cpu.why_unavailable())
