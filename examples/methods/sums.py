"""Sums of two numbers below 20 as prompts with their answers: 240 to practise on, 121 held out."""

import json
import random
from pathlib import Path

pairs = [(a, b) for a in range(1, 20) for b in range(1, 20)]
random.Random(0).shuffle(pairs)
for name, part in (("practise", pairs[:240]), ("held_out", pairs[240:])):
    rows = [{"prompt": f"What is {a} + {b}? Answer with the number alone.", "response": str(a + b)} for a, b in part]
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
