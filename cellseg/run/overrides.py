"""The command line of train.py: paths and names are taken literally, and errors name the nearest right key.

Hydra parses each value by its own grammar: ``2023_01`` is the number 202301, and ``cells[1]`` is an error.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import CompactHydraException, HydraException, OverrideParseException
from omegaconf import OmegaConf

from cellseg.run.home import CONF
from cellseg.storage.errors import InputError

INPUTS = ("data.root", "data.groups", "data.split.file")  # paths that must exist
NULLABLE = frozenset(path.parent.name for path in CONF.glob("*/none.yaml"))  # groups that may be empty
TYPED = (*INPUTS, "data.cache", "study")  # keys whose values are taken literally

_WORD = re.compile(rf"(\+{{0,2}}({'|'.join(map(re.escape, TYPED))})=)(.+)", re.DOTALL)
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_EACH = re.compile(rf"(\s*(?:{_QUOTED})\s*|[^,]*),", re.DOTALL)  # values, each with a comma after it
_SWEEP = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\((.*)\)", re.DOTALL)


def as_typed(words: Sequence[str]) -> list[str]:
    """Quote paths and names of a command line that Hydra would read differently.

    Unchanged: values in quotes, ``null``, interpolations (``${...}``) and, in a sweep, functions such as
    ``choice(a,b)``. In a sweep a comma separates values, and each is quoted on its own.

    Args:
        words: The command line without the name of the program.
    """
    sweep = any(word in ("-m", "--multirun", "hydra.mode=MULTIRUN") for word in words)
    taken_away = [group for group in NULLABLE if not any(word.startswith(f"+{group}.") for word in words)]
    none = {f"~{group}": f"{group}=none" for group in taken_away}
    return [_word_as_typed(_in_words_of_hydra(none.get(word, word)), sweep) for word in words]


def _in_words_of_hydra(word: str) -> str:
    """Let ``GROUP=null`` mean ``none``, and let ``metrics.NAME`` add a key without a +."""
    key, equal, value = word.partition("=")
    if equal and key in NULLABLE:
        return f"{key}={','.join('none' if part == 'null' else part for part in value.split(','))}"
    return f"++{word}" if equal and key.startswith("metrics.") else word


def refuse_lists(words: Sequence[str]) -> None:
    """Refuse several options of a group that takes one.

    Raises:
        InputError: Names the group.
    """
    for word in words:
        group, _, value = word.partition("=")
        if value.startswith("[") and (CONF / group).is_dir() and group not in ("logger", "callbacks", "metrics"):
            raise InputError(
                f"{word}: {group} takes one option; for a sweep over several use -m {group}={value.strip('[]')}"
            )


def to_type(word: str) -> str:
    """Return an override as a person would type it."""
    found = _WORD.fullmatch(word)
    plain = f"{found[1]}{_read(word)}" if found else word
    return plain if _read(*as_typed([plain])) == _read(word) else word


def quoted(text: str) -> str:
    """Return a text in the quotes of Hydra's grammar."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + (found[2] and "\\'"), text) + "'"


def values(override: Override) -> list[Any]:
    """Return the values of an override: one, or several in a sweep."""
    if not override.is_sweep_override():
        return [override.value()]
    return [value.text if isinstance(value, QuotedString) else value for value in override.sweep_iterator()]


def _word_as_typed(word: str, sweep: bool) -> str:
    found = _WORD.fullmatch(word)
    if not found or "${" in found[3]:
        return word
    start, key, value = found.groups()
    if not sweep:
        return start + _value_as_typed(key, value)
    if function := _SWEEP.fullmatch(value):
        inside = _each_as_typed(key, function[2]) if function[1] == "choice" else function[2]
        return f"{start}{function[1]}({inside})"
    return start + _each_as_typed(key, value)


def _each_as_typed(key: str, value: str) -> str:
    each = _EACH.findall(f"{value},")
    if len(each) == 1:
        return _value_as_typed(key, value)
    # a backslash before the comma would escape it
    parts = (part.strip() for part in each)
    return ",".join(quoted(part) if part.endswith("\\") else _value_as_typed(key, part) for part in parts)


def _value_as_typed(key: str, value: str) -> str:
    none = value == "null" and key != "study"
    if not value or none or re.fullmatch(_QUOTED, value, re.DOTALL):
        return value
    read = _read(f"{key}={value}")
    number = type(read) is int and key == "data.root"  # earlier versions named runs of a folder 2023 by the number
    return value if (isinstance(read, str) or number) and str(read) == value else quoted(value)


def _read(word: str) -> Any:
    """Return the value that Hydra reads from an override; None if it cannot read it."""
    try:
        return OverridesParser.create().parse_override(word).value()
    except (HydraException, ValueError):  # ValueError: a number of thousands of digits
        return None


def explain(error: CompactHydraException, words: Sequence[str], conf: Path, own: Sequence[Path] = ()) -> str:
    """Return one sentence on why Hydra refused a command line, with the nearest right key or option.

    Args:
        error: The error of Hydra.
        words: The command line without the name of the program, as passed to Hydra.
        conf: The folder of the configuration.
        own: Folders of the user's configuration.
    """
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    with initialize_config_dir(str(conf), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parser = OverridesParser.create(config_loader=loader)
        overrides = parser.parse_overrides(
            [word for word in words if word[:1] != "-" and ("=" in word or word[:1] == "~")]
        )
        groups = dict(_groups(loader))
        for file in (file for folder in own for file in sorted(folder.glob("*/*.yaml"))):
            groups[file.parent.name] = [*groups.get(file.parent.name, []), file.stem]
        chosen = [f"hydra.searchpath=[{','.join(quoted(f'file://{folder}') for folder in own)}]"] if own else []
        for override in overrides:
            if not (options := groups.get(override.key_or_group)) or override.is_delete():
                continue
            for option in values(override):
                for name in option if isinstance(option, list) else [option]:
                    if isinstance(name, str) and name not in options:
                        return _no_option(override.key_or_group, name, options)
            first = values(override)[0]
            if isinstance(first, Mapping):  # not an option
                continue
            shown = f"[{','.join(map(str, first))}]" if isinstance(first, list) else first
            chosen.append(f"{override.key_or_group}={shown}")
        default, config = (_composed(choice) for choice in ([], chosen))
        sweep = any(word in ("-m", "--multirun") for word in words)
        for override in overrides if sweep else []:
            group = override.key_or_group
            for name in values(override) if group in groups and override.is_sweep_override() else []:
                if not isinstance(name, str):
                    continue
                if lacking := _lacking(overrides, config, _composed([*chosen, f"{group}={name}"])):
                    return (
                        f"{lacking} is not a key together with {group}={name}, which the sweep has too; give each "
                        f"{group} with other keys a sweep of its own, into the same study"
                    )
    for override in overrides:
        key, typed = override.key_or_group, str(override.input_line)
        added = override.is_add() or override.is_force_add()
        if key not in groups and key not in config and not added:
            if key in default:
                return f"{key} is a key of the default configuration, but not together with {' '.join(chosen)}"
            return _no_key(override, config, groups)
        if override.is_add() and config.get(key) is not None:
            return f"{key} is a key of the configuration already, so remove the +: {typed[1:]}"
        if override.is_sweep_override() and not sweep:
            name, _, value = typed.partition("=")
            one = f"{name}=[{value}]" if name.endswith("channels") else f"{name}={quoted(value)}"
            return f'{typed} has several values, which only a sweep takes: put -m first; for one value: "{one}"'
    return one_line(error, error.__cause__)


def _composed(choice: Sequence[str]) -> Mapping[str, Any]:
    """Return all keys of the configuration with these choices."""
    return _keys(OmegaConf.to_container(compose("config", list(choice), return_hydra_config=True)))


def _lacking(overrides: Sequence[Override], here: Mapping[str, Any], there: Mapping[str, Any]) -> str | None:
    """Return the key of the first override that is in one configuration and not in the other; None if there is none."""
    keys = (override.key_or_group for override in overrides if not override.is_add() and not override.is_force_add())
    return next((key for key in keys if key in here and key not in there), None)


def one_line(*errors: BaseException | None) -> str:
    """Return the messages of errors in one line."""
    lines = "\n".join(str(error) for error in errors if error).splitlines()
    return "; ".join(line.strip().rstrip(":") for line in lines if line.strip())


def nearest(word: str, known: Sequence[str]) -> str | None:
    """Return the known key that was probably meant: one with this ending, or with a similar spelling."""
    ends = [key for key in known if key.rpartition(".")[2] == word]
    return next(iter([*ends, *difflib.get_close_matches(word, known, 1)]), None)


def _unreadable(error: OverrideParseException) -> str:
    """Return what cannot be read, and how to quote it."""
    key, equal, value = error.override.partition("=")
    if not equal or not re.fullmatch(r"[+~]*[\w./@$:-]+", key):
        return f"{error.override} cannot be read; write KEY=VALUE, without spaces around ="
    if why := re.search(r"\w+ while evaluating .*", str(error)):
        return f"{error.override} cannot be read: {why[0]}"
    return f'{error.override} cannot be read; a value with special characters needs quotes: "{key}={quoted(value)}"'


def _no_option(group: str, option: str, options: Sequence[str]) -> str:
    near = nearest(option, options)
    meant = f"; did you mean {group}={near}?" if near else ""
    return f"{group}={option} does not exist, the options of {group} are {', '.join(options)}{meant}"


def _no_key(override: Override, config: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> str:
    key = override.key_or_group
    leaf = [known for known, value in config.items() if override.is_delete() or not isinstance(value, Mapping)]
    ours = [known for known in (*leaf, *groups) if known.startswith("hydra") == key.startswith("hydra")]
    near = nearest(key, ours)
    parts = [f"did you mean {near}?" if near else "--help lists all keys"]
    target = str(config.get(f"{key.rpartition('.')[0]}._target_", "cellseg"))
    if not target.startswith("cellseg") and not override.is_delete():  # conf/ lists every argument of our own classes
        parts.append(f"to add an argument of {target}: +{override.input_line}")
    return f"{key} is not a key of the configuration; {' Or, '.join(parts)}"


def _groups(loader: ConfigLoader, parent: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield each group of the configuration and its options."""
    for name in loader.list_groups(parent):
        group = f"{parent}/{name}" if parent else name
        if options := loader.get_group_options(group, ObjectType.CONFIG):
            yield group, options
        yield from _groups(loader, group)


def _keys(node: Any, parent: str = "") -> dict[str, Any]:
    """Return every dotted key of a configuration, including those of nodes."""
    keys: dict[str, Any] = {}
    for name, value in node.items() if isinstance(node, Mapping) else ():
        keys |= {f"{parent}{name}": value} | _keys(value, f"{parent}{name}.")
    return keys
