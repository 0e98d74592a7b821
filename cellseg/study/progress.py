"""Whether a report may give verdicts now, and how far they can be trusted: the plan of a study and earlier looks."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from cellseg.run.plan import Look
from cellseg.storage.errors import count
from cellseg.study.collect import Study
from cellseg.study.statistics import LEVEL


@dataclass(frozen=True)
class Progress:
    """The state of a study at the time of a report.

    Attributes:
        interim: Why there is no verdict yet; None if there is one.
        level: Probability of a false difference at this report.
        look: The look that this report is; None if there is no verdict.
        spent: The same probability of all earlier reports with verdicts and other runs.
        extended: Whether the newest plan was made after a report with verdicts.
        unplanned: Names of runs that are in no plan.
        remarks: What a reader must know of plan and looks.
    """

    interim: str | None
    level: float
    look: Look | None
    spent: float
    extended: bool
    unplanned: list[str]
    remarks: list[str]

    def extension(self, plans_of_runs: Collection[int]) -> str | None:
        """Say that a comparison extends an earlier one, if its runs come from the newest plan and from earlier ones."""
        if not self.extended or len(plans_of_runs) < 2:
            return None
        return (
            f"an extension: runs were added after a verdict, so the probability of a false difference is up to "
            f"{_percent(self.spent + self.level)}"
        )


def find_progress(study: Study) -> Progress:
    """Compare the runs of a study with its plans and with earlier looks."""
    number, runs = len(study.plans), len(study.trained) or len(study.runs)
    planned = {run for plan in study.plans for run in plan.runs}
    finished = {*study.trained["run"], *study.repeated}
    ended = finished | {run.run for run in study.unfinished if run.failure is not None}
    interim, look, level = None, 0, LEVEL
    if study.plans:
        newest = study.plans[-1]
        if any(set(plan.runs) - ended for plan in study.plans[:-1] if not plan.ended):
            look = 0  # an earlier plan is not complete
        else:
            look = newest.looks if newest.ended else newest.look(len(ended & set(newest.runs)))
    same = next((made for made in study.looks if (made.plan, made.runs, made.look) == (number, runs, look)), None)
    earlier = [made for made in study.looks if made != same]
    if study.plans:
        before = max((made.look for made in earlier if made.plan == number), default=0)
        if look == 0 or (same is None and look <= before < newest.looks):
            interim = f"interim: {len(finished & planned)} of {count(len(planned), 'run')}"
        elif same is not None:
            level = same.level
        elif before < newest.looks:
            level = LEVEL * (look**2 - before**2) / newest.looks**2
    spent = sum(made.level for made in earlier)
    now = datetime.now(UTC).replace(microsecond=0)
    made = Look(date=now, plan=number, look=look, runs=runs, margin=study.margin, level=level)
    unplanned = sorted(finished - planned) if study.plans else []
    return Progress(
        interim=interim,
        level=level,
        look=None if interim else (same or made),
        spent=spent,
        extended=any(made.plan < number for made in study.looks),
        unplanned=unplanned,
        remarks=_remarks(study, earlier, unplanned, None if interim else (same or made)),
    )


def _remarks(study: Study, earlier: list[Look], unplanned: list[str], look: Look | None) -> list[str]:
    found = []
    if not study.plans:
        found.append(
            "the study has no plan.yaml, which a sweep writes before its first run, so nothing shows that the number "
            "of runs was fixed before the results were seen"
        )
    if unplanned:
        more = f" and {len(unplanned) - 1} more" if len(unplanned) > 1 else ""
        found.append(f"{count(len(unplanned), 'run')} that no sweep planned (in no plan.yaml): {unplanned[0]}{more}")
    again = [made for made in earlier if made.plan == len(study.plans)]
    fixed = study.plans[-1].looks if study.plans else 1
    spent = sum(made.level for made in earlier) + (look.level if look else 0)
    if look and spent > LEVEL + 1e-9 and (not study.plans or len(again) >= fixed):
        found.append(
            f"{count(len(earlier), 'report')} gave verdicts with other runs before, so the probability of a false "
            f"difference is up to {_percent(spent)}"
        )
    if look and fixed > 1 and look.level < LEVEL:
        found.append(
            f"look {look.look} of {fixed} that were planned: intervals are wider, at {_percent(1 - look.level)}, so "
            f"that all looks together have at most a {_percent(LEVEL)} chance of a false difference"
        )
    planned = {run for plan in study.plans if plan.ended for run in plan.runs}
    if planned:
        found.append(
            f"the study was ended after {len(planned & set(study.runs['run']))} of {len(planned)} planned runs, when "
            "their intervals could be seen, so false differences may be more frequent"
        )
    margins = {made.margin for made in study.looks} - {study.margin}
    if margins:
        found.append(
            f"the margin was changed after a verdict: it was {_points(margins)} points and is now "
            f"{_points({study.margin})}"
        )
    elif others := {*study.margins, *(plan.margin for plan in study.plans)} - {study.margin}:
        found.append(
            f"runs or plans have other margins ({_points(others)} points); verdicts use {_points({study.margin})}"
        )
    return found


def plans_of(study: Study, runs: Collection[str]) -> set[int]:
    """Return the numbers of the plans that contain any of these runs; 0 for runs in no plan."""
    number_of = {run: number for number, plan in enumerate(study.plans, start=1) for run in plan.runs}
    return {number_of.get(run, 0) for run in runs}


def _points(margins: Collection[float]) -> str:
    return " or ".join(f"{100 * margin:g}" for margin in sorted(margins))


def _percent(probability: float) -> str:
    return f"{100 * min(1.0, probability):.3g} %"
