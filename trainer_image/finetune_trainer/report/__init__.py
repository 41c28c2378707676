"""What prepare, check and plan found, for programs (report.json) and for people (a page, a terminal)."""
