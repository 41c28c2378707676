"""From the bytes of a data file to its records, whatever the bytes are: bounded in memory, time and depth."""
