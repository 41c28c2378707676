"""How much of anything is read. What lies beyond is named to the user, never held in memory."""

# Two million tokens of English; the longest context that is trained is a tenth of it.
RECORD_BYTES = 8 << 20
RECORD_MIB = RECORD_BYTES >> 20
# JSON Schemas in `tools` nest about 20 deep; later stages walk values by recursion.
JSON_DEPTH = 100
# Ten million rows of 1.5 KB, far beyond what one fine-tune takes; it also bounds a download's disk space.
DATA_SET_BYTES = 16 << 30
# Text packs 3 to 20 times smaller, rows of one template 100 times; gzip's own bound is about 1,000.
PACKING_RATIO = 200
# Up to here any ratio is harmless, so small files of equal rows are never suspected.
UNSUSPICIOUS_BYTES = 256 << 20
# What is read at once, and what a file is judged by.
CHUNK_BYTES = 256 << 10
