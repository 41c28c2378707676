"""Reading, checking and tokenising rows. A row is trained, or it is listed in a finding: never dropped."""
