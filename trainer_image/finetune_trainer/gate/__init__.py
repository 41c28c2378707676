"""How the gate decides: intervals, power, comparisons and verdicts, as pure functions of graded rows."""
