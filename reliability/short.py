"""The drills in their short forms, which `make test` runs: options by name; `forks.py` runs them."""

DRILLS = {
    "kill_sweep": ["--kills", "8"],
    "kill_each_syscall": ["--every", "20"],
    "corrupt": ["--cases", "48"],
    "preempt": ["--n", "4"],
    "nan_inject": ["--each", "2"],
    "disk_full": ["--sizes", "3"],
    "resume_matrix": ["--quick"],
    "rank_kill": ["--kills", "1"],
    "ranks_agree": ["--quick"],
    "changed": ["--every", "5"],
    "little_memory": ["--levels", "2"],
    "equivalence": ["--cuts", "6"],
    "row_invariants": ["--pairs", "1000"],
    "accounting": ["--files", "60"],
    "soak": ["--checkpoints", "40"],
    "security": ["--quick"],
    "sweep_kill": ["--kills", "1"],
    "page_drill": ["--events", "4000", "--seconds", "60", "--settle", "0"],
    "poison": ["--claims", "1000", "--rounds", "2"],
    "svc_kill": ["--kills", "1", "--any-start"],
    "svc_doors": ["--replays", "1000", "--seconds", "1", "--fuzz", "0"],
    "svc_disk_full": ["--rounds", "1"],
    "svc_ack": ["--requests", "20"],
    "svc_abuse": ["--slow", "20", "--healthy", "20", "--any-speed"],
}
# A plain save must fail where ours may not.
CONTRAST = {"corrupt plain": ["--cases", "48", "--plain"], "kill_sweep plain": ["--kills", "200", "--plain", "--first"]}
