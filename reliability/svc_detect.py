"""An invented team's events go into the store one after another: when does the service say that takeover rose, and does it
keep still where nothing changed?

python reliability/svc_detect.py --rises 20 --quarters 10

A rise is takeover going from 8 to 12 % after 10,000 drafts, a quarter is 20,000 quiet drafts after 10,000. Unlike
alarm_drill.py, which writes counts, this one sends whole events through the store that the service has.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from ground import verdict

from evenhand.service.lookout import Lookout
from evenhand.service.policy import Policy
from evenhand.service.shipping import into_store
from evenhand.service.simulate import Behaviour, Simulation, simulated

from happenings import production

BASELINE = 10_000
EVERY = Policy().look_drafts
WANTED_MEDIAN = 1500


def by_drafts(wanted: Simulation) -> Iterator[list[dict]]:
    """The events of `EVERY` drafts at a time, with what became of them."""
    group: list[dict] = []
    drafts = 0
    for body in simulated(wanted):
        drafts += body["kind"] == "draft"
        if drafts > EVERY:
            yield group
            group, drafts = [], 1
        group.append(body)
    yield group


def opened(wanted: Simulation, folder: Path) -> Iterator[tuple[int, list]]:
    """Drafts so far, and the alarms that opened at that look."""
    with production(folder) as happens:
        lookout = Lookout(happens.store, Policy(), lambda: 0)
        for number, group in enumerate(by_drafts(wanted), start=1):
            into_store(happens.store, "default", group, lambda _: None)
            yield number * EVERY, [notice for notice in lookout.look() if notice.what == "opened"]


def delay(seed: int, folder: Path) -> int | None:
    """Drafts after the change until takeover's alarm over all drafts opened; None where it never did in 5,000."""
    after = Behaviour(takeover=0.12)
    for drafts, notices in opened(Simulation(BASELINE + 5000, seed, BASELINE, Behaviour(), after), folder):
        if drafts > BASELINE and any(one.signal == "takeover" and one.category is None for one in notices):
            return drafts - BASELINE
    return None


def disturbed(seed: int, folder: Path) -> bool:
    """Whether any alarm opened in a quiet quarter."""
    return any(notices for _, notices in opened(Simulation(BASELINE + 20_000, seed), folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rises", type=int, default=20)
    parser.add_argument("--quarters", type=int, default=10)
    parser.add_argument("--seed", type=int, default=100)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        delays = [delay(asked.seed + at, Path(scratch) / f"rise-{at}") for at in range(asked.rises)]
        found = sorted(own for own in delays if own is not None)
        print(f"rises found: {len(found)} of {asked.rises}, after {found} drafts", flush=True)
        noisy = sum(disturbed(asked.seed - 1 - at, Path(scratch) / f"quiet-{at}") for at in range(asked.quarters))
        print(f"quiet quarters with any alarm: {noisy} of {asked.quarters}", flush=True)
    quick = not asked.rises or (len(found) == asked.rises and median(found) <= WANTED_MEDIAN)
    still = 20 * noisy <= max(20, asked.quarters)
    return verdict("S detection", quick + still, 2, "as wanted: rises found in time, quiet quarters left alone")


if __name__ == "__main__":
    sys.exit(main())
