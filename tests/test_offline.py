"""No command uses the network: a test fails if any opens a connection."""

import subprocess
import sys
from pathlib import Path

import pytest

from cellseg import train

BLOCK = """
import runpy, socket, sys
def refuse(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname") or (
        event in ("socket.connect", "socket.sendto") and arguments[0].family in (socket.AF_INET, socket.AF_INET6)
    ):
        sys.stderr.write(f"NETWORK {event} {arguments}\\n")
        raise OSError("no network here")
sys.addaudithook(refuse)
sys.argv = sys.argv[1:]
"""
TRAIN = BLOCK + "runpy.run_path(sys.argv[0], run_name='__main__')"
CELLSEG = BLOCK + "sys.argv.insert(0, 'cellseg'); from cellseg.cli import app; app()"


def offline(code, *words, cwd):
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], cwd=cwd, capture_output=True, text=True)


@pytest.mark.slow
def test_training_a_sweep_and_the_commands_use_no_network(smears, tmp_path):
    settings = ("experiment=smoke", f"data.root={smears}", "study=s", "model=unet,potinet", "-m")
    told = [offline(TRAIN, Path(train.__file__).parents[1] / "train.py", *settings, cwd=tmp_path)]
    one = next((tmp_path / "logs" / "s").glob("unet*"))
    told.append(
        offline(TRAIN, Path(train.__file__).parents[1] / "train.py", *settings[:2], cwd=tmp_path)
    )  # in the process itself
    for words in (
        ("check", smears),
        ("report", tmp_path / "logs" / "s"),
        ("predict", one, smears, "--output", tmp_path / "out"),
        ("review", one),
        ("export", one, tmp_path / "net.pt2"),
    ):
        told.append(offline(CELLSEG, *words, cwd=tmp_path))
    for result in told:
        assert result.returncode == 0, result.stdout + result.stderr
        assert "NETWORK" not in result.stderr


def test_the_block_blocks(tmp_path):
    said = offline(BLOCK + "socket.create_connection(('127.0.0.1', 9))", cwd=tmp_path).stderr
    assert "NETWORK socket" in said
