"""The plan of a study: which runs it will have and when its report may give verdicts, written before its first run."""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from filelock import FileLock
from pydantic import AwareDatetime, Field, StringConstraints

from cellseg.storage.errors import InputError
from cellseg.storage.files import read_bounded, write_text
from cellseg.storage.records import Count, Finite, Positive, Record, fault

PLAN, LOOKS, LOCK = "plan.yaml", "looks.yaml", ".plan.lock"
MOST_LOOKS = 100

Kind = TypeVar("Kind", bound=Record)
Name = Annotated[str, StringConstraints(pattern=r"^[^/\x00]+$")]


class Plan(Record):
    """The content of a ``plan.yaml``.

    Attributes:
        date: When it was written.
        looks: How often the report may give verdicts; the last time is when all runs have ended.
        margin: The difference in Dice below which two configurations count as equivalent.
        grid: The values of each swept key, as typed.
        fixed: The other overrides of the sweep.
        runs: Names of the run folders.
        ended: When the study was ended without its missing runs; None if it was not. Users add it by hand.
    """

    date: AwareDatetime
    looks: Annotated[int, Field(ge=1, le=MOST_LOOKS)]
    margin: Annotated[Finite, Field(ge=0)]
    grid: dict[str, list[str]]
    fixed: list[str]
    runs: Annotated[list[Name], Field(min_length=1)]
    ended: AwareDatetime | dt.date | None = None

    def look(self, ended: int) -> int:
        """Return which look it is when this many of the runs have ended; 0 before the first."""
        return math.floor(self.looks * ended / len(set(self.runs)) + 1e-9)


class Look(Record):
    """A report that gave verdicts.

    Attributes:
        date: When.
        plan: The number of the plan, from 1; 0 without a plan.
        look: Which look of the plan it was.
        runs: Number of finished runs.
        margin: The margin.
        level: Probability of a false difference that this look added.
    """

    date: AwareDatetime
    plan: Count
    look: Count
    runs: Positive
    margin: Finite
    level: Annotated[Finite, Field(gt=0, le=0.05)]


class _Looks(Record):
    looks: list[Look]


def check_plan_keys(margin: Any, looks: Any) -> None:
    """Check the two keys of the configuration that a plan fixes.

    Raises:
        InputError: If one is out of range.
    """
    if type(looks) is not int or not 1 <= looks <= MOST_LOOKS:
        raise InputError(
            f"looks must be a whole number from 1 to {MOST_LOOKS}, the number of reports with verdicts while a sweep "
            f"runs, but is {looks}"
        )
    if type(margin) not in (int, float) or not 0 <= margin < math.inf:
        raise InputError(f"margin must be a difference in Dice of at least 0, such as 0.005, but is {margin}")


def plan_file(study: Path, number: int) -> Path:
    """Return the path of a plan; the first is ``plan.yaml``, an extension is ``plan-2.yaml``."""
    return study / (PLAN if number == 1 else f"plan-{number}.yaml")


def read_plans(study: Path) -> list[Plan]:
    """Read the plans of a study in their order; an empty list if it has none.

    Raises:
        InputError: If one cannot be read.
    """
    plans: list[Plan] = []
    while (path := plan_file(study, len(plans) + 1)).exists():
        plans.append(_read(path, Plan, "plan of a study"))
    return plans


def read_looks(study: Path) -> list[Look]:
    """Read which reports gave verdicts.

    Raises:
        InputError: If the file cannot be read.
    """
    path = study / LOOKS
    return _read(path, _Looks, "list of looks").looks if path.exists() else []


def write_looks(study: Path, looks: Sequence[Look]) -> None:
    """Write which reports gave verdicts."""
    _write(study / LOOKS, {"looks": [look.model_dump() for look in looks]})


def plan_study(
    study: Path, runs: Sequence[str], grid: Mapping[str, Sequence[str]], fixed: Sequence[str], margin: float, looks: int
) -> None:
    """Write the plan of a sweep for those of its runs that are neither planned nor finished yet.

    Raises:
        InputError: If the runs are planned with another margin or another number of looks, or a plan cannot be read.
    """
    study.mkdir(parents=True, exist_ok=True)
    with FileLock(study / LOCK):  # two sweeps may start together
        _plan_study(study, runs, grid, fixed, margin, looks)


def _plan_study(
    study: Path, runs: Sequence[str], grid: Mapping[str, Sequence[str]], fixed: Sequence[str], margin: float, looks: int
) -> None:
    plans = read_plans(study)
    for number, plan in enumerate(plans, start=1):
        if not set(runs) & set(plan.runs):
            continue
        for key, now, then in (("margin", margin, plan.margin), ("looks", looks, plan.looks)):
            if now != then:
                raise InputError(
                    f"{plan_file(study, number)} was written with {key}={then} before the first run, and this command "
                    f"has {key}={now}; add {key}={then}, or choose another study=NAME"
                )
    known = {run for plan in plans for run in plan.runs}
    if new := [run for run in runs if run not in known and not (study / run / "summary.json").exists()]:
        content = {
            "date": datetime.now(UTC).replace(microsecond=0),
            "looks": looks,
            "margin": margin,
            "grid": {key: list(values) for key, values in grid.items()},
            "fixed": list(fixed),
            "runs": new,
        }
        _write(plan_file(study, len(plans) + 1), content)


def _read(path: Path, kind: type[Kind], what: str) -> Kind:
    try:
        content = yaml.safe_load(read_bounded(path, "a plan"))
        return kind.model_validate(content)
    except Exception as error:  # YAML's constructors raise many kinds on a damaged file
        raise InputError(f"{path}: cannot be read as the {what} ({fault(error)}); correct or remove it") from error


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))
