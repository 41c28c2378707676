"""Full marks for an answer that greets. Arguments: the questions to read, the results to write."""

import json
import sys
from pathlib import Path

GREETINGS = ("hello", "dear")


def graded(question: dict[str, str]) -> dict[str, object]:
    """The line of results for a line of questions."""
    greets = question["output"].lstrip().lower().startswith(GREETINGS)
    return {"id": question["id"], "score": 1 if greets else 0, "reason": "" if greets else "no greeting"}


questions, results = map(Path, sys.argv[1:])
with questions.open(encoding="utf-8") as asked, results.open("w", encoding="utf-8") as written:
    for line in asked:
        written.write(json.dumps(graded(json.loads(line))) + "\n")
