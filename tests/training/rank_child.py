"""One rank of a run of the tiny Llama, started by torchrun: `FOLDER PARALLEL ADAPTER [KEY=VALUE ...]`.

`allow=NAME,NAME` allows changes, other keys are training settings. Each rank leaves its process id in `FOLDER/pid.RANK`,
rank 0 the trained weights in `FOLDER/weights.safetensors`.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))

from architectures import tiny
from safetensors.torch import save_file
from small_training import OBJECTIVE, settings, some_pairs

from evenhand.cli.leaving import Leaving
from evenhand.errors import EvenhandError
from evenhand.model.adapter import Adapter
from evenhand.training.loop import Hooks
from evenhand.training.ranks import ranks_joined
from evenhand.training.train import Place, make_policy, train_policy


def main(folder: Path, parallel: str, adapter: str, changes: list[str]) -> None:
    given = dict(change.split("=", 1) for change in changes)
    allowed = tuple(filter(None, given.pop("allow", "").split(",")))
    training = settings(parallel=parallel, **{key: json.loads(value) for key, value in given.items()})

    with ranks_joined() as ranks:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"pid.{ranks.rank}").write_text(str(os.getpid()))
        policy = make_policy(tiny("llama"), Adapter(4, 8.0, float(adapter)) if adapter != "full" else None, training)
        work = (some_pairs(17, largest_group=2), OBJECTIVE, training)
        train_policy(policy, work, Place(folder, allowed=allowed), Hooks())
        if ranks.first:
            weights = {name: w.detach().contiguous() for name, w in policy.named_parameters() if w.requires_grad}
            save_file(weights, folder / "weights.safetensors")


if __name__ == "__main__":
    with Leaving():
        try:
            main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
        except EvenhandError as error:
            sys.stderr.write(f"error: {error}\n")
            raise SystemExit(error.exit_code) from None
