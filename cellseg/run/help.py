"""The text of ``python train.py --help``: every group and key, explained by the comments in conf/."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.text import Text

LEFT = 38  # columns for keys; a longer one has its explanation in the next line
_LINE = re.compile(r"( *)(\w+):(?: +(?!#)(.*?))?(?: +# (.*))?")
WIRING = ("defaults", "module", "hydra")  # keys that nobody sets
EXAMPLES = (
    "{command}                                  one run on the drawn images",
    "{command} model=xopinet data.root=PATH     another network, your own images",
    "{command} -m model=unet,potinet seed=0,1   a sweep: every combination",
)


def print_help(conf: Path, words: Sequence[str], command: str) -> None:
    """Print examples, the options of every group, and every key with its default.

    Args:
        conf: The folder of the configuration.
        words: The command line; ``GROUP=OPTION`` shows the keys of that option.
        command: The command that starts a run.
    """
    console = Console(highlight=False)
    _print(console, f"{command} [GROUP=OPTION] [KEY=VALUE] ...\n")
    for example in EXAMPLES:
        _print(console, f"  {example.format(command=command)}")
    chosen = _defaults(conf) | dict(word.split("=", 1) for word in words if re.fullmatch(r"\w+=\w+", word))
    _print(console, "\nGroups; the option in use is marked *")
    for group in sorted(path.name for path in conf.iterdir() if path.is_dir() and path.name != "hydra"):
        for file in sorted((conf / group).glob("*.yaml")):
            mark = "*" if chosen.get(group) == file.stem else " "
            _print_entry(console, f"{mark} {group}={file.stem}", _about(file))
    _print(console, "\nKeys and their defaults")
    for key, value, comment in _keys(conf, chosen):
        _print_entry(console, f"  {key}={value}", comment)
    end = (
        "+KEY=VALUE adds a key, such as any argument of Lightning's Trainer: +trainer.gradient_clip_val=1. "
        "-m starts a sweep over values with commas between them. --cfg job prints the configuration."
    )
    _print(console, "\n" + textwrap.fill(end, console.width))


def _print(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)


def _print_entry(console: Console, left: str, right: str) -> None:
    """Print a key and its explanation in two columns; the key is never broken, so that it can be copied."""
    lines = textwrap.wrap(right, max(20, console.width - LEFT)) or [""]
    if len(left) >= LEFT:
        _print(console, left)
        left = ""
    for line in lines if left or right else ():
        _print(console, f"{left:{LEFT}}{line}".rstrip())
        left = ""


def _defaults(conf: Path) -> dict[str, str]:
    """Return which option of each group is the default."""
    listed = yaml.safe_load((conf / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    entries = [entry for entry in listed if isinstance(entry, dict)]
    return {group: option for entry in entries for group, option in entry.items() if option and " " not in group}


def _about(file: Path) -> str:
    """Return the comment at the top of a file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return " ".join(line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @package"))


def _keys(conf: Path, chosen: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    yield from _keys_of(conf / "config.yaml", "")
    for group, option in chosen.items():
        file = conf / group / f"{option}.yaml"
        if file.exists() and "@package _global_" not in file.read_text(encoding="utf-8"):
            yield from _with_parents(file, f"{group}.")


def _with_parents(file: Path, prefix: str) -> list[tuple[str, str, str]]:
    """Return the keys of a file over those of the files that its list of defaults names."""
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    keys: dict[str, tuple[str, str, str]] = {}
    for parent in content.get("defaults", []):
        if isinstance(parent, str) and parent != "_self_":
            keys |= {key[0]: key for key in _with_parents(file.with_name(f"{parent}.yaml"), prefix)}
    for key in _keys_of(file, prefix):
        known = keys.get(key[0], ("", "", ""))
        keys[key[0]] = (key[0], key[1], key[2] or known[2])
    return list(keys.values())


def _keys_of(file: Path, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield dotted key, value as written and comment of every line that has a value."""
    above: list[tuple[int, str]] = []  # the keys that the line lies under, with their indentation
    for line in file.read_text(encoding="utf-8").splitlines():
        if not (found := _LINE.fullmatch(line)):
            continue
        indent, name = len(found[1]), found[2]
        above = [parent for parent in above if parent[0] < indent]
        path = [*(parent for _, parent in above), name]
        above.append((indent, name))
        if found[3] and path[0] not in WIRING and name not in ("_target_", "_partial_"):
            yield f"{prefix}{'.'.join(path)}", found[3], found[4] or ""
