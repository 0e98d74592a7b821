"""Overrides after ``python train.py``: paths and names keep their exact text, and errors name the right key."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cellseg import train
from cellseg.run.naming import run_name
from cellseg.run.overrides import TYPED, as_typed, to_type, values
from conftest import quick_first

TRAIN = Path(train.__file__).parents[1] / "train.py"
PARSER = OverridesParser.create()
PIECES = st.sampled_from(
    [*"abZ019_-. ~/\\'\"[](){},:=#%$@?*+|&;!é像\t\n", "2023_01", "1e5", "true", "null", "\\'", "C:\\"]
)
PATHS = st.lists(PIECES, min_size=1, max_size=12).map("".join).filter(lambda text: "${" not in text)
QUOTED = ("'", '"')
NAMES = ["~/cells", "2023_01", "01", "1e5", "true", "cells[1]", "cells(2)", "my cells", "{x}", "C:\\data\\cells", "a=b"]
NAMES += ["\\\\server\\share\\cells", "a#b%c", "$HOME/x", "it's", 'a"b', "ends\\", "nan", "1_0.5", " a "]


def read(*words):
    return [PARSER.parse_override(word) for word in as_typed(words)]


@given(st.sampled_from(["", "+", "++"]), st.sampled_from(TYPED), PATHS)
@example("", "data.root", "a,b")
@example("", "data.root", "'a' 'b'")
@example("", "data.root", "2023_01")
@example("", "study", "null")
def test_a_path_or_name_is_what_is_typed(prefix, key, text):
    word = f"{prefix}{key}={text}"
    [override] = read(word)
    if text[0] == text[-1] and text[0] in QUOTED:  # perhaps quoted by the person: what it means is tested below
        assert isinstance(override.value(), str)
    elif text == "null" and key != "study":
        assert override.value() is None
    else:
        assert str(override.value()) == text
    [typed] = as_typed([word])
    assert as_typed([typed]) == [typed]  # Lightning starts further processes with these words
    assert read(to_type(typed))[0].value() == override.value()


@given(
    st.lists(PATHS.filter(lambda text: not set(text) & set(",'\"") and text.strip() == text), min_size=2, max_size=3)
)
def test_a_comma_separates_the_values_of_a_sweep_and_each_is_what_is_typed(paths):
    [_, word] = as_typed(["-m", f"data.groups={','.join(paths)}"])
    override = PARSER.parse_override(word)
    assert ["null" if path is None else path for path in values(override)] == paths
    passed_on = [PARSER.parse_override(f"data.groups={text}").value() for text in override.sweep_string_iterator()]
    assert passed_on == values(override)


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_passes_on_what_is_typed(name):
    [_, word] = as_typed(["-m", f"data.root={name}"])
    override = PARSER.parse_override(word)
    child = f"data.root={override.get_value_element_as_str()}"
    assert PARSER.parse_override(child).value() == name
    assert read(to_type(child))[0].value() == name  # the command that a run records


@pytest.mark.parametrize(
    "word",
    [
        "data.root=null",
        "data.root='2023_01'",
        'data.root="a, b"',
        "data.root=${oc.env:HOME}/cells",
        "data.root=cells",
        "data.root=/mnt/cells/2023_01",
        "data.root=2023",
        "~data.root",
        "study=two",
        "study=${now:%Y_%m}",
        "data.image_size=1_0",
        "data.root=",
    ],
)
def test_words_that_mean_what_they_say_and_other_keys_stay_as_they_are(word):
    assert as_typed([word]) == [word]
    assert as_typed(["-m", word]) == ["-m", word]


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("data.root=choice(a,b)", "data.root=choice(a,b)"),
        ("data.root=choice(2023_01,b)", "data.root=choice('2023_01',b)"),
        ("data.root=range(1,3)", "data.root=range(1,3)"),
        ("data.root=glob(*)", "data.root=glob(*)"),
        ("data.root='a,b',c[1]", "data.root='a,b','c[1]'"),
        ("data.root=2023_01, 2023_02", "data.root='2023_01','2023_02'"),
        ("data.root=Bob's,Jim's", "data.root='Bob\\'s','Jim\\'s'"),
        ("model=glob(po*)", "model=glob(po*)"),
    ],
)
def test_a_sweep_keeps_functions_and_quotes(word, quoted):
    assert as_typed(["-m", word])[1] == quoted


def test_ordinary_values_leave_the_name_of_the_run_as_it_was():
    words = ["data.root=../my set/cells_1", "data.cache=/tmp/c", "data.split.file=logs/a/unet_seed-0/split.json"]
    assert run_name("unet", 0, as_typed(words)) == run_name("unet", 0, words)


def command(folder, *words):
    return subprocess.run(
        [sys.executable, str(TRAIN), *words], cwd=folder, capture_output=True, text=True, encoding="utf-8", timeout=600
    )


def test_train_takes_paths_as_typed(tmp_path):
    words = ["study=2024_11_05", "data.root=a,b [1]", "data.cache=C:\\c\\", "data.split.file=01"]
    cfg = OmegaConf.create(command(tmp_path, "--cfg", "job", *words).stdout)
    assert (cfg.study, cfg.data.root, cfg.data.cache, cfg.data.split.file) == ("2024_11_05", "a,b [1]", "C:\\c\\", "01")


@pytest.mark.parametrize(
    ("words", "said"),
    quick_first(
        5,
        [
            (
                ["data.image_sise=128"],
                "data.image_sise is not a key of the configuration; did you mean data.image_size?",
            ),
            (["model=unett"], "did you mean model=unet?"),
            (["-m", "seed=0,1", "data.splt.fold=1"], "data.splt.fold is not a key of the configuration; did you mean"),
            (
                ["seed=0,1"],
                "seed=0,1 has several values, which only a sweep takes: put -m first; for one value: \"seed='0,1'\"",
            ),
            (["trainer.max_epochs=("], "a value with special characters needs quotes: \"trainer.max_epochs='('\""),
            (["modle=unet"], "modle is not a key of the configuration; did you mean model?"),
            (["-m", "modle=unet,potinet"], "modle is not a key of the configuration; did you mean model?"),
            (["-m", "model=unett,potinet"], "did you mean model=unet?"),
            (["lr=1"], "did you mean optimizer.lr?"),
            (["~callbacks.emma"], "did you mean callbacks.ema?"),
            (["trainer.min_epochs=1"], "to add an argument of lightning.Trainer: +trainer.min_epochs=1"),
            (["experiment=original", "callbacks.ema.decay=1"], "but not together with experiment=original"),
            (["+seed=1"], "seed is a key of the configuration already, so remove the +: seed=1"),
            (["-m", "seed=0,1", "--cfg", "job"], "--cfg shows the configuration of one run, so leave out -m"),
            (["seed=foo(1)"], "seed=foo(1) cannot be read: HydraException while evaluating 'foo(1)': Unknown function"),
            (["unet"], "unet cannot be read; write KEY=VALUE, without spaces around ="),
            (
                ["-m", "data.root=a,b"],
                "a does not exist; if the comma is part of one name, quote it: -m \"data.root='a,b'\"",
            ),
            (
                ["-m", "model=segresnet,unet", "model.init_filters=8"],
                "model.init_filters is not a key together with model=unet, which the sweep has too",
            ),
        ],
    ),
)
def test_a_wrong_command_line_gets_one_sentence_with_what_to_type(tmp_path, words, said):
    result = command(tmp_path, *words)
    assert result.returncode == 1
    assert said in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_a_comma_without_a_sweep_is_part_of_the_name_and_the_error_shows_the_sweep(tmp_path):
    result = command(tmp_path, "data.root=a,b", "experiment=smoke")
    assert "a data set must be a folder, but a,b does not exist" in result.stderr
    assert result.stderr.endswith("; for a sweep over several folders add -m\n")
    assert not [*tmp_path.glob("logs/*")]  # a refused run leaves nothing
